import { livePages } from "../engine/liveness.ts";
import { type Command, UsageError } from "./command.ts";
import { onStore } from "./database.ts";

/** `rpc-session sessions revoke` */
export const sessionsRevoke: Command = onStore({
  name: "sessions revoke",
  forms: ["--all [--json] <database>"],
  help: `Ends sessions on all servers, within their maxStaleness. Open streams end as well.

  --all        every session of every user and tenant that is live now
`,
  options: { all: { type: "boolean", default: false } },
  async run({ store, options }) {
    if (!options.all) {
      throw new UsageError("--all is missing; it confirms that everybody is to be signed out");
    }
    let revoked = 0;
    for await (const ids of livePages(store)) {
      revoked += (await store.revokeAll({ ids }, "revoked")).revoked.length;
    }
    return { text: `Sessions ended: ${revoked}.\n`, json: { revoked } };
  },
});
