// npm run example:passkey: a transfer that needs a passkey.
import { buildScript, startExample } from "./start.ts";

const example = await startExample(Number(process.env.PORT ?? 8080), await buildScript());
console.log(`Open ${example.url}: sign in, add a passkey, transfer. Ctrl+C stops.`);
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, () => void example.close().then(() => process.exit(0)));
}
