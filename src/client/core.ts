import type { Transport } from "@connectrpc/connect";
import { StepUps } from "./call/step-up.ts";
import type { ResolvedOptions } from "./options.ts";
import { Refresher } from "./refresh/refresher.ts";
import { SignOut } from "./refresh/sign-out.ts";
import { LocalSession } from "./state/local-session.ts";

/** The objects that make up one session client. */
export class SessionCore {
  readonly options: ResolvedOptions;
  readonly local: LocalSession;
  readonly refresher: Refresher;
  readonly signOut: SignOut;
  readonly stepUp: StepUps;

  /** @param transport without the session's interceptor, so that refreshes and sign-outs do not recur */
  constructor(options: ResolvedOptions, transport: Transport) {
    this.options = options;
    this.local = new LocalSession(options, {
      onReplaced: () => this.refresher.reset(),
      onLateCookies: () => this.signOut.repeat(),
      onDoubt: () => void this.refresher.refresh(true),
    });
    this.refresher = new Refresher(options, this.local, transport);
    this.stepUp = new StepUps(this.local, options.onStepUp);
    this.signOut = new SignOut({
      options,
      local: this.local,
      refresher: this.refresher,
      transport,
    });
  }
}
