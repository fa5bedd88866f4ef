// The passkeys of users, and the challenges that are waiting for an answer. Both live in memory here.
import { Code, ConnectError } from "@connectrpc/connect";
import {
  type AuthenticationResponseJSON,
  generateAuthenticationOptions,
  generateRegistrationOptions,
  type RegistrationResponseJSON,
  verifyAuthenticationResponse,
  verifyRegistrationResponse,
  type WebAuthnCredential,
} from "@simplewebauthn/server";

/** The session that asks. Its id binds a challenge to it. */
export interface Holder {
  readonly id: string;
  readonly userId: string;
}

interface Waiting {
  readonly purpose: "registration" | "step-up";
  readonly challenge: string;
  readonly until: number;
}

/** How long a user may take to use the passkey. */
const patienceMs = 120_000;

export class Passkeys {
  readonly #origin: string;
  readonly #host: string;
  readonly #now: () => number;
  readonly #ofUser = new Map<string, WebAuthnCredential[]>();
  /** By session: each has one at most. Entries of sessions that ended are removed when they are over. */
  readonly #waiting = new Map<string, Waiting>();

  constructor(origin: string, now: () => number) {
    this.#origin = origin;
    this.#host = new URL(origin).hostname;
    this.#now = now;
  }

  has(userId: string): boolean {
    return this.#of(userId).length > 0;
  }

  /** Options for a new passkey, as JSON for the browser. */
  async startRegistration(holder: Holder): Promise<string> {
    const options = await generateRegistrationOptions({
      rpName: "Bank",
      rpID: this.#host,
      userName: holder.userId,
      userID: new TextEncoder().encode(holder.userId),
      excludeCredentials: this.#of(holder.userId).map(({ id }) => ({ id })),
      authenticatorSelection: { userVerification: "required", residentKey: "preferred" },
    });
    this.#remember(holder, "registration", options.challenge);
    return JSON.stringify(options);
  }

  /** @throws ConnectError if the answer is not that of a new passkey for this challenge */
  async finishRegistration(holder: Holder, credentialJson: string): Promise<void> {
    const response = read<RegistrationResponseJSON>(credentialJson);
    const expectedChallenge = this.#take(holder, "registration");
    const { verified, registrationInfo } = await verifyRegistrationResponse({
      ...{ response, expectedChallenge, requireUserVerification: true },
      ...{ expectedOrigin: this.#origin, expectedRPID: this.#host },
    }).catch(refuse);
    if (!verified || registrationInfo === undefined) {
      throw refused();
    }
    const { credential } = registrationInfo;
    if ([...this.#ofUser.values()].flat().some(({ id }) => id === credential.id)) {
      throw refused();
    }
    this.#ofUser.set(holder.userId, [...this.#of(holder.userId), credential]);
  }

  /** A challenge for one of the user's passkeys, as JSON for the browser. */
  async startStepUp(holder: Holder): Promise<string> {
    const allowCredentials = this.#of(holder.userId).map(({ id }) => ({ id }));
    if (allowCredentials.length === 0) {
      throw new ConnectError("Add a passkey first.", Code.FailedPrecondition);
    }
    const options = await generateAuthenticationOptions({
      ...{ rpID: this.#host, allowCredentials, userVerification: "required" },
    });
    this.#remember(holder, "step-up", options.challenge);
    return JSON.stringify(options);
  }

  /** @throws ConnectError unless a passkey of this user has answered the challenge of this session */
  async finishStepUp(holder: Holder, credentialJson: string): Promise<void> {
    const response = read<AuthenticationResponseJSON>(credentialJson);
    const expectedChallenge = this.#take(holder, "step-up");
    const credential = this.#of(holder.userId).find(({ id }) => id === response.id);
    if (credential === undefined) {
      throw refused();
    }
    const { verified, authenticationInfo } = await verifyAuthenticationResponse({
      ...{ response, expectedChallenge, credential, requireUserVerification: true },
      ...{ expectedOrigin: this.#origin, expectedRPID: this.#host },
    }).catch(refuse);
    if (!verified) {
      throw refused();
    }
    // A counter that goes back shows a copy of the passkey; the library refuses it.
    credential.counter = authenticationInfo.newCounter;
  }

  #of(userId: string): readonly WebAuthnCredential[] {
    return this.#ofUser.get(userId) ?? [];
  }

  #remember({ id }: Holder, purpose: Waiting["purpose"], challenge: string): void {
    const now = this.#now();
    for (const [session, { until }] of this.#waiting) {
      if (until <= now) {
        this.#waiting.delete(session);
      }
    }
    this.#waiting.set(id, { purpose, challenge, until: now + patienceMs });
  }

  /** A challenge counts once, for the session and the purpose that it was made for. */
  #take({ id }: Holder, purpose: Waiting["purpose"]): string {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (waiting?.purpose !== purpose || waiting.until <= this.#now()) {
      throw refused();
    }
    return waiting.challenge;
  }
}

function read<T extends object>(json: string): T {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch {
    throw refused();
  }
  if (typeof value !== "object" || value === null) {
    throw refused();
  }
  return value as T;
}

function refuse(): never {
  throw refused();
}

function refused(): ConnectError {
  return new ConnectError("The passkey was not accepted. Try again.", Code.PermissionDenied);
}
