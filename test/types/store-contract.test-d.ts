import type { SessionStore as PublicStore } from "rpc-session";
import type {
  Changes,
  Clock,
  Device,
  EndedBy,
  GenerationUse,
  Inserted,
  JsonObject,
  KeysEntry,
  NewSession,
  RecordedSecrets,
  RefreshWrite,
  RevokeScope,
  SecretName,
  SessionOwner,
  SessionPage,
  SessionRecord,
  SessionStore,
  SessionUpdate,
  StoreContext,
  Stored,
  StoredSigningKey,
  TokenTransport,
} from "rpc-session/store-contract";
import { describe, expectTypeOf, it } from "vitest";

// A store whose author names every type, and takes all of them from one place.
abstract class MyStore implements SessionStore {
  readonly name = "myStore";
  abstract open(context: StoreContext): Promise<void>;
  abstract close(): Promise<void>;
  abstract insert(session: NewSession): Promise<Inserted>;
  abstract load(id: string): Promise<Stored<SessionRecord | undefined>>;
  abstract refresh(write: RefreshWrite): Promise<Stored<SessionRecord | undefined>>;
  abstract confirm(uses: readonly GenerationUse[]): Promise<readonly boolean[]>;
  abstract revoke(
    id: string,
    endedBy: EndedBy,
  ): Promise<Stored<SessionRecord | undefined> & { readonly revoked: boolean }>;
  abstract revokeAll(
    scope: RevokeScope,
    endedBy: EndedBy,
  ): Promise<{ readonly revoked: readonly string[]; readonly now: number }>;
  abstract update(change: SessionUpdate): Promise<Stored<SessionRecord | undefined>>;
  abstract list(
    owner: SessionOwner,
    page: { readonly cursor: string | undefined; readonly limit: number },
  ): Promise<SessionPage>;
  abstract changes(cursor: string | undefined, window: number): Promise<Changes>;
  abstract onChange(wake: () => void): () => void;
  abstract signingKeys(): Promise<{
    readonly keys: readonly StoredSigningKey[];
    readonly now: number;
  }>;
  abstract addSigningKey(key: Omit<StoredSigningKey, "createdAt">): Promise<boolean>;
  abstract removeSigningKeysBelow(slot: number): Promise<void>;
  abstract retireSigningKeys(kids: readonly string[]): Promise<readonly string[]>;
  abstract announceKeys(change: KeysEntry["change"]): Promise<void>;
  abstract recordSecrets(secrets: readonly SecretName[]): Promise<RecordedSecrets>;
  abstract retireSecrets(secrets: readonly SecretName[]): Promise<RecordedSecrets>;
  abstract liveIds(
    cursor: string | undefined,
    limit: number,
  ): Promise<{ readonly ids: readonly string[]; readonly cursor?: string }>;
  abstract prune(limit: number): Promise<number>;
  abstract lease(name: string, holder: string, ttl: number): Promise<boolean>;
}

describe("types of rpc-session/store-contract", () => {
  it("name everything that a store receives and returns", () => {
    expectTypeOf<MyStore>().toExtend<PublicStore>();
    expectTypeOf<StoreContext["clock"]>().toEqualTypeOf<Clock>();
    expectTypeOf<SessionRecord["claims"]>().toEqualTypeOf<JsonObject>();
    expectTypeOf<SessionRecord["device"]>().toEqualTypeOf<Device>();
    expectTypeOf<SessionRecord["transport"]>().toEqualTypeOf<TokenTransport>();
  });
});
