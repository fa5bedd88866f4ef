import type { ConnectRouter } from "@connectrpc/connect";
import { createConnectRouter } from "@connectrpc/connect";
import type { MethodDescription, SessionsOptions } from "rpc-session";
import { testSessions } from "rpc-session/testing";
import { verifySessions } from "rpc-session/verify";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { DemandingService, OpenService } from "../gen/policytest/v1/policytest_pb.ts";
import { issueOn } from "../helpers/refreshing.ts";
import { wireServer } from "../helpers/wire-server.ts";

type Options = Pick<SessionsOptions, "methods" | "public">;

const routes = (router: ConnectRouter): void => {
  router.service(NotesService, {}).service(OpenService, {}).service(DemandingService, {});
};

/** Returns the policies of all served methods, by the part of the procedure after the package. */
function described(given: Options): (name: string) => MethodDescription {
  const sessions = testSessions(given);
  const { routes: protectedRoutes, ...options } = sessions.protect({ routes });
  const router = createConnectRouter(options);
  protectedRoutes(router);
  const all = sessions.describe(router);
  return (name) => {
    const found = all.find(({ procedure }) => procedure.endsWith(`.${name}`));
    if (found === undefined) {
      throw new Error(`no method ${name} is served`);
    }
    return found;
  };
}

describe("feat:K9 policies by pattern", () => {
  it('"*" is the policy of everything that has no other, but not of SessionService', () => {
    const policy = described({ methods: { "*": { auth: "optional" } } });
    expect(policy("NotesService/AddNote")).toMatchObject({ auth: "optional", source: "code" });
    expect(policy("DemandingService/Fresh")).toMatchObject({ auth: "optional" });
    // The options of the schema name a method and a service, so they are narrower.
    expect(policy("OpenService/Required")).toMatchObject({
      auth: "required",
      source: "method option",
    });
    expect(policy("OpenService/Inherited")).toMatchObject({
      auth: "none",
      source: "service option",
    });
    expect(policy("SessionService/Refresh")).toMatchObject({ auth: "none" });
    expect(policy("SessionService/ListSessions")).toMatchObject({
      auth: "required",
      source: "default",
    });
  });

  it("SessionService serves the caller's own sessions, so only its own name changes its policy", () => {
    const wide = { "*": { auth: "optional", check: "none" } } as const;
    expect(described({ methods: wide })("SessionService/GetSession")).toMatchObject({
      auth: "required",
      check: "feed",
    });
    expect(() => described({ methods: { "rpcsession.*": { auth: "none" } } })).toThrow(
      /names rpcsession\.\*, but the router serves no such method/,
    );
    // By its own name it can be changed.
    const own = { "rpcsession.v1.SessionService/*": { freshWithin: "1h" } } as const;
    expect(described({ methods: own })("SessionService/ListSessions").freshWithin).toBe(3_600_000);
  });

  it("the narrower name counts, part by part: method, service, package, everything", () => {
    const policy = described({
      methods: {
        "*": { auth: "optional", check: "strict" },
        "notes.*": { claims: { role: ["reader"] }, foreignBearer: "ignore" },
        "notes.v1.*": { claims: { role: ["editor"] } },
        "notes.v1.NotesService/*": { auth: "required" },
        "notes.v1.NotesService/AddNote": { check: "none" },
      },
    });
    expect(policy("NotesService/AddNote")).toMatchObject({
      auth: "required",
      check: "none",
      claims: [{ claim: "role", anyOf: ["editor"] }],
      foreignBearer: "ignore",
    });
    expect(policy("NotesService/ListNotes").check).toBe("strict");
    expect(policy("DemandingService/Claimed")).toMatchObject({
      auth: "optional",
      foreignBearer: "refuse",
    });
  });

  it("a service in code counts before its option in the schema, and after the options of its methods", () => {
    const policy = described({ methods: { "policytest.v1.OpenService/*": { auth: "required" } } });
    expect(policy("OpenService/Inherited")).toMatchObject({ auth: "required", source: "code" });
    expect(policy("OpenService/Optional")).toMatchObject({
      auth: "optional",
      source: "method option",
    });
  });

  it("a public method does not inherit demands", () => {
    const policy = described({
      public: [NotesService.method.signIn],
      methods: {
        "*": { claims: { plan: [] } },
        "notes.v1.NotesService/*": { freshWithin: "5m" },
        "policytest.v1.OpenService/*": { auth: "none" },
      },
    });
    expect(policy("NotesService/SignIn")).toMatchObject({
      auth: "none",
      claims: [],
      freshWithin: undefined,
    });
    expect(policy("OpenService/Inherited")).toMatchObject({ auth: "none", claims: [] });
    expect(policy("NotesService/AddNote")).toMatchObject({
      auth: "required",
      claims: [{ claim: "plan", anyOf: [] }],
      freshWithin: 300_000,
    });
  });

  it("a stream policy of a pattern only concerns the methods that stream", () => {
    const policy = described({ methods: { "notes.v1.NotesService/*": { stream: "never" } } });
    expect(policy("NotesService/WatchNotes").stream).toBe("never");
    expect(policy("NotesService/AddNote").stream).toBeUndefined();
  });

  it.each(["notes.v1.*/AddNote", "notes*", "**", "*.NotesService/*", "notes.v1.NotesService/Add*"])(
    "%s is refused as a pattern",
    (name) => {
      expect(() => testSessions({ methods: { [name]: { auth: "none" } } })).toThrow(
        `methods: "${name}" is not a pattern; write a service as "notes.v1.NotesService/*"`,
      );
    },
  );

  it("a pattern that covers no served method is refused at startup, and a wrong policy at construction", () => {
    expect(() => described({ methods: { "note.v1.*": {} } })).toThrow(
      /names note\.v1\.\*, but the router serves no such method/,
    );
    expect(() => testSessions({ methods: { "*": { auth: "nobody" as "none" } } })).toThrow(
      /^methods: the auth of \* must be/,
    );
    expect(() =>
      verifySessions({
        issuer: "https://api.example.com",
        jwks: { keys: [] },
        methods: { "*": { check: "strict" } },
      }),
    ).toThrow(/^the policy of \* sets check: "strict"/);
  });

  it("a name is not taken for a longer one", async () => {
    const sessions = testSessions({ methods: { "notes.v1.NotesService/*": { auth: "optional" } } });
    const server = wireServer(sessions.protect({ routes }));
    const { access, revoke } = await issueOn(sessions, "header");
    await revoke();
    // Optional, but a token that fails is still refused.
    const refused = await server.call(NotesService.method.addNote, {}, { bearer: access });
    expect(refused.status).toBe(401);
    expect((await server.call(NotesService.method.addNote, {})).status).toBe(501);
    expect((await server.call(DemandingService.method.fresh, {})).status).toBe(401);
  });
});
