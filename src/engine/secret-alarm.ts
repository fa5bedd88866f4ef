import type { SessionEventListener } from "../base/events.ts";

/** Ids of unknown secrets remembered; then it begins anew, so that invented ids silence nothing for good. */
const unknownSecretsMax = 100;

/** Lets every event through, but of each unknown secret the first one only. */
export function oncePerSecret(emit: SessionEventListener): SessionEventListener {
  const reported = new Set<string>();
  return (event) => {
    if (event.type !== "unknownSecret") {
      emit(event);
    } else if (!reported.has(event.secretId)) {
      if (reported.size >= unknownSecretsMax) {
        reported.clear();
      }
      reported.add(event.secretId);
      emit(event);
    }
  };
}
