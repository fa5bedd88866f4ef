/** An error detail: its type name, and its bytes in hex. */
export interface WireDetail {
  readonly type: string;
  readonly value: string;
}

export interface WireError {
  readonly code: string;
  readonly message: string;
  readonly details: readonly WireDetail[];
}

/** Codes by their number in gRPC, spelled as in Connect. */
export const codeNames: readonly string[] = [
  ...["ok", "canceled", "unknown", "invalid_argument", "deadline_exceeded", "not_found"],
  ...["already_exists", "permission_denied", "resource_exhausted", "failed_precondition"],
  ...["aborted", "out_of_range", "unimplemented", "internal", "unavailable", "data_loss"],
  "unauthenticated",
];

/** The details of a `google.rpc.Status { code = 1; message = 2; repeated Any details = 3 }`. */
export function decodeStatus(bytes: Buffer): WireDetail[] {
  return fieldsOf(bytes)
    .filter(({ number }) => number === 3)
    .map(({ data }) => {
      const any = new Map(fieldsOf(data).map((field) => [field.number, field.data]));
      const url = any.get(1)?.toString() ?? "";
      return {
        type: url.slice(url.lastIndexOf("/") + 1),
        value: any.get(2)?.toString("hex") ?? "",
      };
    });
}

interface Field {
  readonly number: number;
  readonly data: Buffer;
}

/** The fields of a message: of varints the encoding, of everything else the content. */
function fieldsOf(bytes: Buffer): Field[] {
  const fields: Field[] = [];
  for (let at = 0; at < bytes.length; ) {
    const tag = varint(bytes, at);
    const first = varint(bytes, tag.end);
    const end = (tag.value & 7) === 2 ? first.end + first.value : first.end;
    const start = (tag.value & 7) === 2 ? first.end : tag.end;
    fields.push({ number: tag.value >>> 3, data: bytes.subarray(start, end) });
    at = end;
  }
  return fields;
}

function varint(bytes: Buffer, at: number): { readonly value: number; readonly end: number } {
  let value = 0;
  for (let i = 0; ; i++) {
    const byte = bytes.readUInt8(at + i);
    value += (byte & 0x7f) * 2 ** (7 * i);
    if (byte < 0x80) {
      return { value, end: at + i + 1 };
    }
  }
}

function varintOf(value: number): Buffer {
  return value < 0x80
    ? Buffer.of(value)
    : Buffer.concat([Buffer.of((value & 0x7f) | 0x80), varintOf(value >>> 7)]);
}

function text(number: number, value: string | Buffer): Buffer {
  const data = Buffer.from(value);
  return Buffer.concat([Buffer.of((number << 3) | 2), varintOf(data.length), data]);
}

/** The numbers of hint.proto, written out: they can never change. */
const actions = { NONE: 0, REFRESH: 1, SIGN_IN: 2, STEP_UP: 3, RETRY_LATER: 4 } as const;
const tokens = { KEEP: 1, CLEAR: 2 } as const;
const reasons = {
  ...{ SESSION_MISSING: 1, ACCESS_TOKEN_MISSING: 2, TOKEN_EXPIRED: 3, TOKEN_INVALID: 4 },
  ...{ TOKEN_CONFLICT: 5, SESSION_REVOKED: 6, SESSION_EXPIRED: 7, SESSION_UNKNOWN: 8 },
  ...{ TOKEN_THEFT: 9, ANTI_CSRF: 10, CROSS_SITE: 11, TRANSPORT_REFUSED: 12 },
  CLAIM_REJECTED: 13,
  AUTH_UNAVAILABLE: 15,
} as const;

export interface ExpectedHint {
  readonly action: keyof typeof actions;
  readonly reason: keyof typeof reasons;
  readonly tokens: keyof typeof tokens;
  /** Seconds, less than 128. */
  readonly retryAfter?: number;
}

/** The details of a refusal, byte for byte, made without any generated code. */
export function refusalDetails(
  hint: ExpectedHint,
  place: { readonly session: string; readonly realm: string; readonly procedure: string },
): WireDetail[] {
  const action = actions[hint.action];
  const refreshHint = Buffer.concat([
    action === 0 ? Buffer.alloc(0) : Buffer.of(1 << 3, action),
    Buffer.of(2 << 3, reasons[hint.reason]),
    Buffer.of(3 << 3, tokens[hint.tokens]),
    place.session === "" ? Buffer.alloc(0) : text(4, place.session),
    text(5, place.realm),
    text(6, place.procedure),
    hint.retryAfter === undefined ? Buffer.alloc(0) : text(7, Buffer.of(1 << 3, hint.retryAfter)),
  ]);
  const entry = (key: string, value: string): Buffer =>
    text(3, Buffer.concat([text(1, key), text(2, value)]));
  const errorInfo = Buffer.concat([
    text(1, hint.reason),
    text(2, "rpc-session"),
    entry("realm", place.realm),
    entry("procedure", place.procedure),
  ]);
  return [
    { type: "rpcsession.v1.RefreshHint", value: refreshHint.toString("hex") },
    { type: "google.rpc.ErrorInfo", value: errorInfo.toString("hex") },
  ];
}
