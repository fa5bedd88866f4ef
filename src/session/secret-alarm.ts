import type { SessionEventListener } from "../events.ts";

/** Ids of unknown secrets remembered; more are not reported. */
const unknownSecretsMax = 100;

/** Lets every event through, but of each unknown secret the first one only. */
export function oncePerSecret(emit: SessionEventListener): SessionEventListener {
  const reported = new Set<string>();
  return (event) => {
    if (event.type !== "unknownSecret") {
      emit(event);
    } else if (!reported.has(event.secretId) && reported.size < unknownSecretsMax) {
      reported.add(event.secretId);
      emit(event);
    }
  };
}
