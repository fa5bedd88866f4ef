import { Devices } from "./devices.tsx";
import { Experiments } from "./experiments.tsx";
import { network } from "./network.ts";
import { People } from "./people.tsx";
import { useVisitor } from "./session.ts";
import { SessionCard } from "./session-card.tsx";
import { Timeline } from "./timeline.tsx";

export function App() {
  const { info } = useVisitor();
  return (
    <div className="page">
      <header className="masthead">
        <img src="./icon.svg" alt="" width="28" height="28" />
        <h1>rpc-session</h1>
        <p>A session you can watch: let it expire, lose its answers, steal it, end it.</p>
        {network.about}
      </header>
      <main className="board">
        {info === undefined && <section className="card waiting" aria-busy="true" />}
        {info === null && <People />}
        {info && (
          <>
            <SessionCard info={info} />
            <Devices current={info.id} />
          </>
        )}
        {info !== undefined && <Experiments key={info?.id ?? ""} signedIn={info !== null} />}
      </main>
      <Timeline />
    </div>
  );
}
