/** The keys of a store in Redis. All of them share the prefix as their hash tag. */
export interface RedisKeys {
  readonly meta: string;
  readonly log: string;
  readonly signing: string;
  /** What every script that touches sessions begins with: meta, log, ends, revoking. */
  readonly rows: readonly string[];
  readonly session: (id: string) => string;
  readonly user: (id: string) => string;
  readonly tenant: (id: string) => string;
  /** The sessions that a revokeAll of many is about to end. */
  readonly revoking: (number: string) => string;
  readonly lease: (name: string) => string;
}

export function redisKeys(prefix: string): RedisKeys {
  const key = (name: string): string => `{${prefix}}:${name}`;
  const [meta, log] = [key("meta"), key("log")];
  return {
    meta,
    log,
    signing: key("keys"),
    rows: [meta, log, key("ends"), key("revoking")],
    session: (id) => key(`session:${id}`),
    user: (id) => key(`user:${id}`),
    tenant: (id) => key(`tenant:${id}`),
    revoking: (number) => key(`revoking:${number}`),
    lease: (name) => key(`lease:${name}`),
  };
}
