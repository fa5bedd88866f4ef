import { useEffect, useState } from "react";
import type { SessionInfo } from "rpc-session/gen/rpcsession/v1/service_pb.js";
import { network } from "./network.ts";
import { playground, session, useVisitor } from "./session.ts";

/** The session of this browser: who it is, how long its access token lives, and its live stream. */
export function SessionCard({ info }: { readonly info: SessionInfo }) {
  return (
    <section className="card session" aria-labelledby="session">
      <TokenRing />
      <div>
        <h2 id="session">{info.userId}</h2>
        <dl className="facts">
          <dt>Access token</dt>
          <dd>renews itself before it expires</dd>
          <dt>Session</dt>
          <dd>
            <code>…{info.id.slice(-4)}</code>
          </dd>
          <dt>Live stream</dt>
          <dd>
            <LiveStream key={info.id} />
          </dd>
        </dl>
        <div className="row">
          <button type="button" onClick={() => void session.refresh().catch(() => {})}>
            Refresh now
          </button>
          <button
            type="button"
            className="quiet"
            onClick={() => void session.signOut().catch(() => {})}
          >
            Sign out
          </button>
          {network.isShared && (
            <a className="button quiet" href={location.pathname} target="_blank" rel="noreferrer">
              Open a second tab
            </a>
          )}
        </div>
      </div>
    </section>
  );
}

const radius = 52;
const around = 2 * Math.PI * radius;

/** Shows how much of the access token's life is left. */
function TokenRing() {
  const { tokenEnds, tokenLife } = useVisitor();
  const left = useTimeLeft(tokenEnds);
  const share = Math.min(1, left / tokenLife);
  return (
    <div className="ring">
      <svg viewBox="0 0 120 120" aria-hidden="true">
        <circle cx="60" cy="60" r={radius} className="track" />
        <circle
          cx="60"
          cy="60"
          r={radius}
          className={share < 0.2 ? "life ending" : "life"}
          strokeDasharray={around}
          strokeDashoffset={around * (1 - share)}
        />
      </svg>
      <p>
        <strong role="timer" aria-label="Seconds until the access token expires">
          {Math.ceil(left / 1000)}
        </strong>
        <small>seconds left</small>
      </p>
    </div>
  );
}

function useTimeLeft(end: number): number {
  const [left, setLeft] = useState(() => Math.max(0, end - performance.now()));
  useEffect(() => {
    const update = () => setLeft(Math.max(0, end - performance.now()));
    update();
    const timer = setInterval(update, 200);
    return () => clearInterval(timer);
  }, [end]);
  return left;
}

/**
 * A stream that outlives its access token. The server ends it with the token; `resume` opens it
 * again with the next one.
 */
function LiveStream() {
  const [ticks, setTicks] = useState(0);
  const [opened, setOpened] = useState(0);
  const [ended, setEnded] = useState("");
  useEffect(() => {
    const stop = new AbortController();
    const open: Parameters<typeof session.resume>[0] = (_, call) => {
      setOpened((count) => count + 1);
      return playground.watchClock({}, call);
    };
    const watch = async () => {
      try {
        for await (const _ of session.resume(open, { signal: stop.signal })) {
          setTicks((count) => count + 1);
        }
        setEnded("ended");
      } catch {
        setEnded(stop.signal.aborted ? "" : "ended with the session");
      }
    };
    void watch();
    return () => stop.abort();
  }, []);
  return (
    <span>
      <span className="pulse" key={ticks} aria-hidden="true" /> {ticks} messages over {opened}{" "}
      {opened === 1 ? "connection" : "connections"} {ended}
    </span>
  );
}
