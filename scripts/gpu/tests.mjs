// Runs a test file that pack.mjs bundled, in several processes at once, which take the next test when they have done one.
// A process that dies, or whose GPU has failed, is replaced by a fresh one. When the time is over what has not been run is
// named. The last line is `N passed, N failed, N skipped, N left out`.
//
//   node scripts/gpu/tests.mjs FILE [--processes N] [--seconds N]
import { fork } from "node:child_process";
import { availableParallelism } from "node:os";
import { resolve } from "node:path";
import { parseArgs } from "node:util";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { processes: { type: "string" }, seconds: { type: "string" } },
});
const file = resolve(positionals[0]);
const processes = Number(values.processes ?? availableParallelism());
const end = Date.now() + 1000 * Number(values.seconds ?? 3600);

let names = null;
let next = 0;
let barren = 0; // processes that ended before their first test
const done = { passed: 0, failed: 0, skipped: 0 };
const outstanding = new Set();
const workers = new Set();

function fail(name, error) {
  done.failed++;
  console.log(`FAILED ${name}\n  ${error}`);
}

/** The next test's number, or -1. */
function take() {
  while (Date.now() < end && next < names.length) {
    const number = next++;
    if (names[number] !== null) return number;
    done.skipped++;
  }
  return -1;
}

function start() {
  const worker = fork(file, { detached: true, stdio: ["ignore", "pipe", "pipe", "ipc"] });
  workers.add(worker);
  let running = -1;
  let hasRun = false;
  let said = "";
  for (const stream of [worker.stdout, worker.stderr]) {
    stream.on("data", (chunk) => {
      said = (said + chunk).slice(-2000);
    });
  }
  const give = () => {
    running = take();
    if (running < 0) return worker.disconnect();
    outstanding.add(running);
    hasRun = true;
    worker.send(running);
  };
  worker.on("message", ({ names: found, number, error }) => {
    if (found) {
      names ??= found;
      return give();
    }
    outstanding.delete(number);
    running = -1;
    if (error === undefined) done.passed++;
    else fail(names[number], error);
    if (error?.includes("the GPU failed") || error?.includes("did not end within")) kill(worker);
    else give();
  });
  const ended = (code, signal) => {
    workers.delete(worker);
    if (running >= 0 && Date.now() < end) {
      outstanding.delete(running);
      fail(names[running], `its process died (${signal ?? code}): ${said.trim().slice(-600)}`);
    } else if (code === 1 && said.includes("AFTER "))
      fail("after all tests", said.slice(said.indexOf("AFTER ")));
    else if (names === null) console.log(`${file} did not start (${signal ?? code}): ${said}`);
    if (!hasRun) barren++;
    if (names !== null && Date.now() < end && next < names.length && barren < 10) start();
    else if (workers.size === 0) finish();
  };
  // What it said last is read first.
  worker.on("exit", (code, signal) => setTimeout(() => ended(code, signal), 50));
}

/** With what it has started. */
function kill(worker) {
  try {
    process.kill(-worker.pid, "SIGKILL");
  } catch {
    // It has ended.
  }
}

function finish() {
  const never = (names ?? []).map((_, i) => i).slice(next);
  const left = [...outstanding, ...never].filter((i) => names[i] !== null);
  if (left.length > 0) {
    const groups = new Map();
    for (const i of left) {
      const group = names[i].split(" > ").at(-2);
      groups.set(group, (groups.get(group) ?? 0) + 1);
    }
    console.log(`left out: ${[...groups].map(([group, n]) => `${group} (${n})`).join(", ")}`);
  }
  const { passed, failed, skipped } = done;
  console.log(`${passed} passed, ${failed} failed, ${skipped} skipped, ${left.length} left out`);
  process.exit(names === null || failed > 0 ? 1 : 0);
}

for (let i = 0; i < processes; i++) start();
// Tests that run on are given up.
setTimeout(
  () => {
    for (const worker of workers) kill(worker);
  },
  end - Date.now() + 3000,
);
process.on("SIGTERM", () => {
  for (const worker of workers) kill(worker);
  finish();
});
