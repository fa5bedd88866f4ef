/** The fault of one call to the store: none, the request is lost, or the response is lost. */
export type Fault = "none" | "before" | "after";

/** Work of a server that pauses before each of its calls to the store. */
export class Task {
  done = false;
  /** Whether one of its calls failed, so that it may report an outage. */
  faulted = false;
  /** Whether it waits for the result of another task and so shares its outcome. */
  joined = false;
  /** Whether it ends with its first call to the store. */
  oneCall = false;
  #resume: ((fault: Fault) => void) | undefined;
  #stopped = (): void => {};

  get atGate(): boolean {
    return this.#resume !== undefined;
  }

  /** Resolves when the task pauses at its next gate or is done. */
  untilStop(): Promise<void> {
    return new Promise((resolve) => {
      this.#stopped = resolve;
    });
  }

  arrive(): Promise<Fault> {
    return new Promise((resolve) => {
      this.#resume = resolve;
      this.#stopped();
    });
  }

  resume(fault: Fault): void {
    const resume = this.#resume;
    this.#resume = undefined;
    this.faulted ||= fault !== "none";
    resume?.(fault);
  }

  finish(): void {
    this.done = true;
    this.#stopped();
  }
}

/**
 * Lets one task run at a time, from one call to the store to the next. The schedule therefore
 * decides the order of all calls, and the same schedule always has the same outcome.
 */
export class Gates {
  #running: Task | undefined;

  /** Makes a call to the store. Outside of a task it does not wait. */
  async pass<T>(work: () => Promise<T>): Promise<T> {
    const task = this.#running;
    const fault = (await task?.arrive()) ?? "none";
    try {
      if (fault === "before") {
        throw new Error("the store cannot be reached (injected fault)");
      }
      const result = await work();
      if (fault === "after") {
        throw new Error("the response of the store is lost (injected fault)");
      }
      return result;
    } finally {
      if (task?.oneCall) {
        task.finish();
      }
    }
  }

  /** Runs work that may start one call to the store in the background, without waiting for it. */
  background(task: Task, act: () => void): void {
    task.oneCall = true;
    this.#running = task;
    act();
    this.#running = undefined;
    task.done = !task.atGate;
  }

  /** Starts a task and runs it to its first gate. */
  async start(task: Task, run: () => Promise<void>): Promise<void> {
    const stop = task.untilStop();
    this.#running = task;
    void run().finally(() => task.finish());
    // A task that joined another one has no gate. Everything before a gate takes only microtasks.
    await Promise.race([stop, tick()]);
    this.#running = undefined;
    task.joined = !task.done && !task.atGate;
  }

  /** Lets a task pass its gate and runs it to the next gate or to its end. */
  async release(task: Task, fault: Fault): Promise<void> {
    const stop = task.untilStop();
    this.#running = task;
    task.resume(fault);
    await stop;
    this.#running = undefined;
    // The tasks that joined it are done as well, and so are the readers that its log entry woke.
    await tick();
  }

  /** Runs a task to its end, unless it waits for another one. */
  async finish(task: Task): Promise<void> {
    while (task.atGate) {
      await this.release(task, "none");
    }
  }
}

/** Waits until all pending work without timers and other threads is done. */
export function tick(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}
