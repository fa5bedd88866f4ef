import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Meter, MeterProvider } from "@opentelemetry/api";
import { openTelemetry, openTelemetryClient } from "rpc-session/otel";
import { describe, expect, it, onTestFinished } from "vitest";
import { sorted } from "../helpers/sorted.ts";

const root = join(import.meta.dirname, "../..");
const folder = join(root, "examples/monitoring");
const alerts = readFileSync(join(folder, "alerts.yaml"), "utf8");
const dashboard = JSON.parse(readFileSync(join(folder, "dashboard.json"), "utf8")) as {
  readonly panels: readonly {
    readonly id: number;
    readonly title: string;
    readonly targets: readonly { readonly expr: string }[];
  }[];
};
const page = readFileSync(join(root, "docs/on-call.md"), "utf8");
const telemetryPage = readFileSync(join(root, "docs/telemetry.md"), "utf8");

const queries = dashboard.panels.flatMap(({ targets }) => targets.map(({ expr }) => expr));
const metrics = declaredMetrics();

/** The metrics of a server and a client, by the names of OpenTelemetry and of Prometheus. */
function declaredMetrics(): ReadonlyMap<string, string> {
  const found = new Map<string, string>();
  const declare =
    (suffix: string) =>
    (name: string, { unit }: { unit?: string } = {}) => {
      const seconds = unit === "s" ? "_seconds" : "";
      found.set(name, `${name.replaceAll(".", "_")}${seconds}${suffix}`);
      return { add() {}, record() {} };
    };
  const meter = {
    createHistogram: declare(""),
    createCounter: declare("_total"),
    createObservableCounter: declare("_total"),
    createObservableGauge: declare(""),
    addBatchObservableCallback() {},
  } as unknown as Meter;
  const meterProvider: MeterProvider = { getMeter: () => meter };
  openTelemetry({ meterProvider });
  openTelemetryClient({ meterProvider });
  return found;
}

/** The names of metrics in a text, without what Prometheus adds for histograms. */
function namesIn(text: string): string[] {
  const names = text.match(/\brpc(?:session)?_\w+(?=[{[])/g) ?? [];
  return [...new Set(names.map((name) => name.replace(/_(?:bucket|count|sum)$/, "")))];
}

const isThere = spawnSync("promtool", ["--version"]).status === 0;
const skipped = isThere ? "" : " (skipped: install prometheus, which has promtool)";

describe("the alert rules and the dashboard", () => {
  it.skipIf(!isThere)(
    `feat:N12 promtool accepts the rules, and each alert fires when it should and only then${skipped}`,
    () => {
      const run = (...args: string[]) => execFileSync("promtool", args, { cwd: folder });
      expect(String(run("check", "rules", "alerts.yaml"))).toContain("11 rules found");
      expect(String(run("test", "rules", "alerts.test.yaml"))).toContain("SUCCESS");
    },
  );

  it.skipIf(!isThere)(`promtool accepts the queries of the dashboard${skipped}`, () => {
    expect(queries.length).toBeGreaterThan(15);
    expect(checkQueries(queries)).toBe(true);
    expect(checkQueries(["sum by (rate(x[5m]))"])).toBe(false);
  });

  it("feat:N12 use only metrics that exist, and the dashboard shows every one of them but those of the call on clients", () => {
    const known = [...metrics.values()];
    const used = namesIn(queries.join("\n"));
    expect(namesIn(alerts).filter((name) => !known.includes(name))).toEqual([]);
    expect(used.filter((name) => !known.includes(name))).toEqual([]);
    expect(known.filter((name) => !used.includes(name))).toEqual([
      "rpc_client_call_duration_seconds",
    ]);
  });

  it("have panels with an id of their own each", () => {
    const ids = dashboard.panels.map(({ id }) => id);
    expect(new Set(ids).size).toBe(ids.length);
  });
});

describe("the page for whoever is on call", () => {
  it("feat:N12 explains every alert, every metric and every event", () => {
    const names = [...alerts.matchAll(/alert: (\w+)/g)].map(([, name]) => name);
    expect(names.length).toBeGreaterThan(5);
    expect(names.filter((name) => !page.includes(`### ${name}\n`))).toEqual([]);
    expect([...metrics.values()].filter((name) => !page.includes(`\`${name}\``))).toEqual([]);
    const [tables = "", ofClients = ""] = page
      .slice(page.indexOf("## Events"))
      .split("### Of clients");
    const types = eventsIn("src/base/events.ts");
    expect(types.length).toBeGreaterThan(15);
    expect(types.filter((type) => !tables.includes(`\`${type}\``))).toEqual([]);
    const clientTypes = eventsIn("src/client/events.ts");
    expect(clientTypes.length).toBeGreaterThan(7);
    expect(clientTypes.filter((type) => !ofClients.includes(`\`${type}\``))).toEqual([]);
  });

  it("feat:N6 docs/monitoring.md names every event of servers and of clients", () => {
    const monitoring = readFileSync(join(root, "docs/monitoring.md"), "utf8");
    const rows = [...monitoring.matchAll(/^\| `(\w+)` \| (?:info|warn|error) \|/gm)];
    expect(sorted(rows.map(([, type]) => type))).toEqual(sorted(eventsIn("src/base/events.ts")));
    const ofClients = monitoring.slice(monitoring.indexOf("On the client, `onEvent`"));
    const missing = eventsIn("src/client/events.ts").filter(
      (type) => !ofClients.includes(`\`${type}\``),
    );
    expect(missing).toEqual([]);
  });

  it("feat:N11 docs/telemetry.md lists every metric and every span", () => {
    expect([...metrics.keys()].filter((name) => !telemetryPage.includes(`\`${name}\``))).toEqual(
      [],
    );
    const source = ["server", "client"].map((file) =>
      readFileSync(join(root, `src/otel/${file}.ts`), "utf8"),
    );
    const table = /const spanNames[^}]+}/.exec(source[0] ?? "")?.[0] ?? "";
    const spans = [...table.matchAll(/"(rpcsession\.[\w.]+)"/g)].map(([, name]) => name);
    expect(spans.length).toBeGreaterThan(5);
    expect(spans.filter((name) => !telemetryPage.includes(`\`${name}\``))).toEqual([]);
  });

  it("is where each alert leads to", () => {
    const links = [...alerts.matchAll(/alert: (\w+)|runbook: docs\/on-call\.md#(\w+)/g)];
    const lower = links.map(([, name, anchor]) => (name ?? anchor ?? "").toLowerCase());
    for (let i = 0; i < lower.length; i += 2) {
      expect(lower[i + 1]).toBe(lower[i]);
    }
  });
});

/** The types of the events that a file declares. */
function eventsIn(file: string): readonly string[] {
  const source = readFileSync(join(root, file), "utf8");
  return [...source.matchAll(/readonly type: "(\w+)"/g)].map(([, type = ""]) => type);
}

/** Whether promtool accepts queries. It checks rules only, so each query becomes one. */
function checkQueries(exprs: readonly string[]): boolean {
  const made = mkdtempSync(join(tmpdir(), "rpc-session-rules-"));
  onTestFinished(() => rmSync(made, { recursive: true }));
  const rules = exprs.map((expr, i) => ({
    record: `query_${i}`,
    expr: expr.replaceAll("$__rate_interval", "5m").replaceAll("$job", "api"),
  }));
  // JSON is YAML.
  writeFileSync(join(made, "queries.yaml"), JSON.stringify({ groups: [{ name: "all", rules }] }));
  return spawnSync("promtool", ["check", "rules", join(made, "queries.yaml")]).status === 0;
}
