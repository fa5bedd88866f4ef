/** What goes wrong with one call to the store: nothing, the way there, or the way back. */
export type Fault = "none" | "before" | "after";

/** A piece of the server's work that stops before each of its calls to the store. */
export class Task {
  done = false;
  /** Whether one of its calls failed, so that it may end in an outage. */
  faulted = false;
  /** Whether it waits for the answer of another task, so that it inherits that one's end. */
  joined = false;
  /** Whether it is over with its first call to the store. */
  oneCall = false;
  #resume: ((fault: Fault) => void) | undefined;
  #stopped = (): void => {};

  get atGate(): boolean {
    return this.#resume !== undefined;
  }

  /** Resolves when the task stops again: at its next gate, or because it is done. */
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
 * Lets one task run at a time, from one call to the store to the next. So a schedule decides the
 * order of all calls, and the same schedule always leads to the same end.
 */
export class Gates {
  #running: Task | undefined;

  /** A call to the store. Outside of tasks it goes straight through. */
  async pass<T>(work: () => Promise<T>): Promise<T> {
    const task = this.#running;
    const fault = (await task?.arrive()) ?? "none";
    try {
      if (fault === "before") {
        throw new Error("the store is out of reach (modelled)");
      }
      const result = await work();
      if (fault === "after") {
        throw new Error("the store's answer is lost (modelled)");
      }
      return result;
    } finally {
      if (task?.oneCall) {
        task.finish();
      }
    }
  }

  /** Does what may begin one call to the store in the background, and does not wait for it. */
  background(task: Task, act: () => void): void {
    task.oneCall = true;
    this.#running = task;
    act();
    this.#running = undefined;
    task.done = !task.atGate;
  }

  /** Begins a task and runs it to its first gate. */
  async start(task: Task, run: () => Promise<void>): Promise<void> {
    const stop = task.untilStop();
    this.#running = task;
    void run().finally(() => task.finish());
    // A task that joined another stops at no gate. All that comes before a gate takes microtasks.
    await Promise.race([stop, tick()]);
    this.#running = undefined;
    task.joined = !task.done && !task.atGate;
  }

  /** Lets a task through its gate and runs it to the next one, or to its end. */
  async release(task: Task, fault: Fault): Promise<void> {
    const stop = task.untilStop();
    this.#running = task;
    task.resume(fault);
    await stop;
    this.#running = undefined;
    // Those who joined it are done as well, and so is what a change of the log has woken.
    await tick();
  }

  /** Runs a task to its end, unless it waits for another one. */
  async finish(task: Task): Promise<void> {
    while (task.atGate) {
      await this.release(task, "none");
    }
  }
}

/** Waits until everything that needs no timer and no other thread has happened. */
export function tick(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}
