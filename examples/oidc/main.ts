// npm run example:oidc: sign in at an OpenID provider, which runs here too.
import { buildScript, startExample } from "./start.ts";

const example = await startExample(Number(process.env.PORT ?? 8080), await buildScript());
console.log(`Open ${example.url} in a browser. Any name and password will do. Ctrl+C stops.`);
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, () => void example.close().then(() => process.exit(0)));
}
