import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import type { DescMethod, DescService } from "@bufbuild/protobuf";
import type { MethodDescription } from "../server/policy/policy.ts";
import { type Command, table, UsageError } from "./command.ts";

/** `rpc-session policy` */
export const policyCommand: Command = {
  name: "policy",
  summary: "show what each method demands of its caller",
  forms: ["[--check] [--json] <file>..."],
  about:
    "Shows the policy of each method as the schema states it (rpcsession.v1.method_policy and service_policy). FROM says what states whether a session is needed; default means that nothing does, and one is. Policies in code, the options public and methods of createSessions, are not in the schema; sessions.describe(router) shows both together.",
  arguments: [
    [
      "<file>...",
      "generated modules such as gen/notes/v1/notes_pb.js, or the output of buf build: image.binpb or image.json",
    ],
  ],
  options: [
    {
      flags: "--check",
      meaning: "exit with 1 if a method has no stated policy, for continuous integration",
    },
  ],
  examples: [
    ["Show the policies of generated modules", "rpc-session policy gen/notes/v1/notes_pb.js"],
    [
      "Refuse a method without a policy in CI",
      "buf build -o image.binpb && rpc-session policy --check image.binpb",
    ],
    [
      "List the methods that anybody may call",
      "rpc-session policy --json image.binpb | jq -r '.methods[] | select(.auth == \"none\").procedure'",
    ],
  ],
  async run({ args, options }) {
    if (args.length === 0) {
      throw new UsageError('"policy" takes at least one file, got 0');
    }
    const found = (await Promise.all(args.map(servicesIn))).flat();
    const services = new Map(found.map((service) => [service.typeName, service]));
    // It is part of the library, and its policies are its own.
    services.delete("rpcsession.v1.SessionService");
    const methods = await describe([...services.values()].flatMap((service) => service.methods));
    const open = methods.filter(({ stated }) => !stated);
    const isRefused = options.check === true && open.length > 0;
    const list = open.map(({ procedure }) => `  ${procedure}\n`).join("");
    const summary =
      open.length === 0
        ? "Every method states its policy.\n"
        : `No stated policy, so calls without a session are refused:\n${list}`;
    return {
      text: `${table([head, ...methods.map(rowOf)])}\n${summary}`,
      json: { ok: open.length === 0, methods: methods.map(shownOf) },
      code: isRefused ? 1 : 0,
    };
  },
};

/** A method, and whether the schema states a policy for it. */
interface StatedMethod extends MethodDescription {
  readonly stated: boolean;
  /** Its rules on claims, for people. */
  readonly demands: readonly string[];
}

async function describe(methods: readonly DescMethod[]): Promise<readonly StatedMethod[]> {
  if (methods.length === 0) {
    throw new UsageError(
      "the files have no service; give generated modules that export services, or an image with services",
    );
  }
  const { Policies } = await import("../server/policy/policy.ts");
  const { demandsOf } = await import("../server/policy/rules.ts");
  const { hasOption } = await import("@bufbuild/protobuf");
  const { method_policy, service_policy } = await import("../../gen/rpcsession/v1/options_pb.ts");
  const described = new Policies({
    ...{ public: [], methods: {} },
    // Conditions are shown. What they may name is checked where the service starts.
    compile: (source) => ({ source, readsRequest: false, claims: [], holds: () => false }),
  }).describe(methods);
  return described.map((one, i) => {
    const method = methods[i] as DescMethod;
    const stated = hasOption(method, method_policy) || hasOption(method.parent, service_policy);
    const demands = one.claims.map((demand) => {
      const { claim, anyOf, allowMissing } = demand;
      const rules = demandsOf(demand);
      const isList = allowMissing === undefined && rules.every(({ rule }) => rule === "anyOf");
      const words = rules.map(({ requirement }) => requirement.replaceAll(" ", "-"));
      return `${claim}=${(isList ? anyOf.join("|") : words.join("&")) || "*"}`;
    });
    return { ...one, stated, demands };
  });
}

/** The services of a generated module, or of an image. */
async function servicesIn(file: string): Promise<readonly DescService[]> {
  if (/\.(?:m|c)?[jt]s$/.test(file)) {
    const exported = (await import(pathToFileURL(resolve(file)).href)) as Record<string, unknown>;
    return Object.values(exported).filter(isService);
  }
  if (/\.(?:binpb|bin|json)$/.test(file)) {
    return servicesInImage(file);
  }
  throw new UsageError(
    file.endsWith(".proto")
      ? "a .proto file must be built first: buf build -o image.binpb, or protoc --include_imports --descriptor_set_out=image.binpb"
      : "a file must be a module (.js, .mjs, .ts) or an image (.binpb, .json)",
  );
}

function isService(value: unknown): value is DescService {
  return (value as Partial<DescService> | null | undefined)?.kind === "service";
}

async function servicesInImage(file: string): Promise<readonly DescService[]> {
  const { createFileRegistry, createRegistry, fromBinary, fromJson } = await import(
    "@bufbuild/protobuf"
  );
  const { FileDescriptorSetSchema } = await import("@bufbuild/protobuf/wkt");
  const { file_rpcsession_v1_options } = await import("../../gen/rpcsession/v1/options_pb.ts");
  const bytes = await readFile(file);
  try {
    const set = file.endsWith(".json")
      ? fromJson(FileDescriptorSetSchema, JSON.parse(bytes.toString("utf8")), {
          registry: createRegistry(file_rpcsession_v1_options),
          ignoreUnknownFields: true,
        })
      : fromBinary(FileDescriptorSetSchema, bytes);
    return [...createFileRegistry(set)].filter(isService);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new Error(
      `${file} is not an image of buf build with all its imports, or a FileDescriptorSet: ${why}`,
    );
  }
}

const head = [
  "METHOD",
  "AUTH",
  "FROM",
  "CLAIMS",
  "FRESH",
  "ACR",
  "CHECK",
  "STREAM",
  "CSRF",
  "BEARER",
];

function rowOf(method: StatedMethod): readonly string[] {
  const { procedure, auth, source, acr, check, demands, stream = "" } = method;
  const { fresh, csrf, foreignBearer } = shownOf(method);
  return [
    ...[
      procedure,
      auth,
      source,
      [...demands, ...(method.allow === undefined ? [] : [`allow(${method.allow.source})`])].join(
        " ",
      ),
      fresh === null ? "" : `${fresh}s`,
    ],
    acr.join("|"),
    ...[auth === "none" ? "" : check, stream, csrf === null ? "" : csrf ? "always" : "never"],
    foreignBearer,
  ];
}

/** A policy as it is printed. */
function shownOf(method: StatedMethod) {
  const { procedure, auth, source, check, stream, foreignBearer } = method;
  return {
    ...{ procedure, auth, source, check, foreignBearer },
    claims: method.claims,
    allow: method.allow?.source ?? null,
    /** Seconds. */
    fresh: method.freshWithin === undefined ? null : method.freshWithin / 1000,
    acr: method.acr,
    csrf: method.doAntiCsrfCheck ?? null,
    stream: stream ?? null,
    stated: method.stated,
  };
}
