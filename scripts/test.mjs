// npm test: setup, then vitest, then the native tests. Arguments go to vitest (`npm test -- --watch`,
// `npm test -- matmul`); with any, the native tests are left out.
// LAZULI_TEST_REPORT=<folder> also writes vitest.json and native.json there.
import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join, resolve } from "node:path";
import { main, root, run, setup, stage } from "./setup.mjs";

const report = process.env.LAZULI_TEST_REPORT && resolve(process.env.LAZULI_TEST_REPORT);

function show(command, args) {
  return spawnSync(command, args, { cwd: root, stdio: "inherit" }).status ?? 1;
}

function vitest(args) {
  const watch = args.some((arg) => arg === "--watch" || arg === "-w");
  const reporters = report
    ? ["--reporter=default", "--reporter=json", `--outputFile.json=${join(report, "vitest.json")}`]
    : [];
  const cli = join(root, "node_modules/vitest/vitest.mjs");
  return show(process.execPath, [cli, ...(watch ? [] : ["run"]), ...reporters, ...args]);
}

async function nativeTests() {
  const cache = () => readFileSync(join(root, "build/CMakeCache.txt"), "utf8");
  const found = () => /^LAZULI_TESTS_FOUND:INTERNAL=ON$/m.test(cache());
  if (!found()) await run("cmake", ["-DLAZULI_TESTS=ON", "build"]);
  if (!found()) return 0;
  await stage("native tests", async () => {
    const jobs = String(availableParallelism());
    await run("cmake", ["--build", "build", "--target", "lazuli_native_test", "--parallel", jobs]);
  });
  const output = report ? [`--gtest_output=json:${join(report, "native.json")}`] : [];
  return show(join(root, "build/lazuli_native_test"), ["--gtest_brief=1", ...output]);
}

await main(async () => {
  const args = process.argv.slice(2);
  if (report) mkdirSync(report, { recursive: true });
  await setup();
  const status = vitest(args);
  const nativeStatus = args.length === 0 ? await nativeTests() : 0;
  process.exitCode = status || nativeStatus;
});
