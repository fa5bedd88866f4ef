import { timestampDate } from "@bufbuild/protobuf/wkt";
import { useEffect, useState } from "react";
import type { SessionInfo } from "rpc-session/gen/rpcsession/v1/service_pb.js";
import { own } from "./session.ts";
import { useServerNews } from "./timeline.tsx";

/** Where the user is signed in. SessionService serves this list to every client. */
export function Devices({ current }: { readonly current: string }) {
  const news = useServerNews();
  const [devices, setDevices] = useState<readonly SessionInfo[]>([]);
  // biome-ignore lint/correctness/useExhaustiveDependencies: the list changes with the news
  useEffect(() => {
    let isCurrent = true;
    own.listSessions({}).then(
      ({ sessions }) => isCurrent && setDevices(sessions),
      () => {}, // the session has just ended; the page shows that
    );
    return () => {
      isCurrent = false;
    };
  }, [current, news]);
  return (
    <section className="card" aria-labelledby="devices">
      <h2 id="devices">Your devices</h2>
      <ul className="devices">
        {devices.map((device) => (
          <li key={device.id}>
            <span>
              <strong>{nameOf(device)}</strong>
              <small>
                session …{device.id.slice(-4)}, since {since(device)}
              </small>
            </span>
            {device.current ? (
              <em>this one</em>
            ) : (
              <button
                type="button"
                className="quiet"
                onClick={() => void own.revokeSession({ sessionId: device.id })}
              >
                Sign it out
              </button>
            )}
          </li>
        ))}
      </ul>
    </section>
  );
}

function nameOf({ device }: SessionInfo): string {
  const agent = device?.userAgent ?? "";
  const browser = /(Firefox|Edg|Chrome|Safari)\//.exec(agent)?.[1];
  return browser === undefined ? "Phone" : (names[browser] ?? browser);
}

const names: Readonly<Record<string, string>> = { Edg: "Edge" };

function since({ createdAt }: SessionInfo): string {
  return createdAt === undefined ? "" : timestampDate(createdAt).toLocaleTimeString();
}
