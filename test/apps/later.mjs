// Loaded into the servers of the tests: the signal SIGWINCH, which no server uses, makes 20 minutes
// pass, so that access tokens expire and sessions do not.
const { now } = Date;
const monotonic = performance.now.bind(performance);
let passed = 0;
Date.now = () => now() + passed;
performance.now = () => monotonic() + passed;
process.on("SIGWINCH", () => {
  passed += 20 * 60_000;
  console.log(`20 minutes later (${passed / 60_000})`);
});
