// Runs a program with a time limit. Arguments: the limit in milliseconds, then the command.
// Kills the program and everything it started when the time is over or when the parent ends, however
// it ends: the parent holds the other end of the standard input.
// Exits with the code of the program, or with 124 if it killed it.
import { spawn } from "node:child_process";

const [limit = "0", command = "", ...args] = process.argv.slice(2);
const child = spawn(command, args, { detached: true, stdio: ["ignore", "inherit", "inherit"] });

function kill(): void {
  try {
    process.kill(-(child.pid ?? 0), "SIGKILL");
  } catch {
    // The program has ended.
  }
  process.exit(124);
}

setTimeout(kill, Number(limit));
process.stdin.on("end", kill).on("error", kill).resume();
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(signal, kill);
}
child.on("error", () => process.exit(127));
child.on("exit", (code) => process.exit(code ?? 1));
