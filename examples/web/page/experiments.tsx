import { ConnectError } from "@connectrpc/connect";
import { type ReactNode, useState } from "react";
import { playground, session } from "./session.ts";

interface Experiment {
  readonly title: string;
  readonly text: string;
  readonly steps: readonly Step[];
}

interface Step {
  readonly label: string;
  /** Whether it makes sense without a session. */
  readonly always?: boolean;
  /** @returns what to show */
  readonly run: () => Promise<unknown>;
}

const experiments: readonly Experiment[] = [
  {
    title: "Call the service",
    text: "An ordinary RPC. Call it after the token has expired: it is refused, refreshed and sent again, and you do not notice.",
    steps: [
      { label: "Call", run: async () => (await playground.greet({})).greeting },
      { label: "Let the token expire", always: true, run: () => playground.expireTokens({}) },
    ],
  },
  {
    title: "Lose a response",
    text: "The server refreshes, and the answer never arrives. The client asks again and gets the same tokens: nobody is signed out.",
    steps: [
      {
        label: "Lose the response to a refresh",
        async run() {
          await playground.loseResponse({});
          await session.refresh().catch(() => session.refresh());
          return "Refreshed at the second attempt.";
        },
      },
    ],
  },
  {
    title: "Steal the cookies",
    text: "The thief calls until the access token expires. When a refresh token is used twice, the session ends for both.",
    steps: [
      { label: "Steal", run: () => playground.stealCookies({}) },
      { label: "Thief calls", always: true, run: () => playground.sendThief({}) },
      {
        label: "Thief refreshes",
        always: true,
        run: () => playground.sendThief({ refresh: true }),
      },
    ],
  },
  {
    title: "Use a second device",
    text: "The phone keeps a stream open. Sign it out in the list of devices, or let it sign you out: open streams end at once.",
    steps: [
      { label: "Add a phone", run: () => playground.addPhone({}) },
      { label: "Phone signs you out", run: () => playground.revokeFromPhone({}) },
    ],
  },
];

/** Buttons that do to the session what the world does. */
export function Experiments({ signedIn }: { readonly signedIn: boolean }) {
  return (
    <section className="experiments" aria-label="Experiments">
      {experiments.map((experiment) => (
        <Card key={experiment.title} {...experiment} signedIn={signedIn} />
      ))}
    </section>
  );
}

function Card({ title, text, steps, signedIn }: Experiment & { readonly signedIn: boolean }) {
  const [result, setResult] = useState<ReactNode>("");
  const act = async (step: Step) => {
    try {
      const shown = await step.run();
      setResult(typeof shown === "string" ? shown : "");
    } catch (error) {
      setResult(ConnectError.from(error).message);
    }
  };
  return (
    <article className="card">
      <h3>{title}</h3>
      <p>{text}</p>
      <div className="row">
        {steps.map((step) => (
          <button
            type="button"
            key={step.label}
            disabled={!signedIn && step.always !== true}
            onClick={() => void act(step)}
          >
            {step.label}
          </button>
        ))}
      </div>
      <output className="note">{result}</output>
    </article>
  );
}
