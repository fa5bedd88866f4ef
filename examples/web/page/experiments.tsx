import { ConnectError } from "@connectrpc/connect";
import { type ReactNode, useState } from "react";
import { Deed } from "../../gen/playground/v1/playground_pb.ts";
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
        run: () => playground.sendThief({ deed: Deed.REFRESH }),
      },
    ],
  },
  {
    title: "Steal a session",
    text: "A second client with a copy of everything opens a stream, and refreshes. This session has no key: reuse of its token gives the thief away, and it ends for both. The phone's session is bound to a key: the refresh is refused at once, and the phone goes on.",
    steps: [
      { label: "Steal this session", run: stealThisSession },
      { label: "Steal the phone's session", run: stealThePhone },
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

/** The thief opens a stream. This page goes on until the copied refresh token is outdated; then it is used. */
async function stealThisSession(): Promise<void> {
  await playground.stealCookies({});
  await playground.sendThief({ deed: Deed.WATCH });
  for (let round = 0; round < rounds; round += 1) {
    await playground.expireTokens({});
    await session.refresh();
    await playground.greet({});
  }
  await playground.sendThief({ deed: Deed.REFRESH });
}

/** Each one refreshes. Every second one may only confirm the tokens that this page holds. */
const rounds = 4;

/** The thief opens a stream, and refreshes. Then the access token expires that it has copied. */
async function stealThePhone(): Promise<void> {
  await playground.stealPhone({});
  await playground.sendThief({ deed: Deed.WATCH });
  await playground.sendThief({ deed: Deed.REFRESH });
  await playground.expireTokens({});
}

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
