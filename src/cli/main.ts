#!/usr/bin/env node
import { run } from "./run.ts";

/** The longest input that is read. The longest token has 8 KiB. */
const maxInput = 1024 * 1024;

async function stdin(): Promise<string> {
  if (process.stdin.isTTY) {
    process.stderr.write("Paste the input, then press Enter and Ctrl-D.\n");
  }
  process.stdin.setEncoding("utf8");
  let text = "";
  for await (const part of process.stdin) {
    text += part;
    if (text.length > maxInput) {
      throw new Error(`the standard input has more than ${maxInput} characters`);
    }
  }
  return text;
}

const { code, stdout, stderr } = await run(process.argv.slice(2), { env: process.env, stdin });
process.stdout.write(stdout);
process.stderr.write(stderr);
process.exitCode = code;
