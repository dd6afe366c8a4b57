// npm test: setup, then vitest, then the native tests. Arguments go to vitest (`npm test -- --watch`,
// `npm test -- matmul`); with any, the native tests are left out.
// LAZULI_TEST_REPORT=<folder> also writes vitest.json, native.json, native-cuda-<n>.json and
// native-cubin.json there.
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join, resolve } from "node:path";
import { main, root, run, setup, stage } from "./setup.mjs";

const report = process.env.LAZULI_TEST_REPORT && resolve(process.env.LAZULI_TEST_REPORT);

function show(command, args, env = {}) {
  return (
    spawnSync(command, args, { cwd: root, stdio: "inherit", env: { ...process.env, ...env } }).status ?? 1
  );
}

function vitest(args) {
  const watch = args.some((arg) => arg === "--watch" || arg === "-w");
  const reporters = report
    ? ["--reporter=default", "--reporter=json", `--outputFile.json=${join(report, "vitest.json")}`]
    : [];
  const cli = join(root, "node_modules/vitest/vitest.mjs");
  return show(process.execPath, [cli, ...(watch ? [] : ["run"]), ...reporters, ...args]);
}

const nativeBinary = join(root, "build/lazuli_native_test");
const nativeArgs = (name, args) => [
  "--gtest_brief=1",
  ...args,
  ...(report ? [`--gtest_output=json:${join(report, `${name}.json`)}`] : []),
];

function nativeTest(name, args, env = {}) {
  return show(nativeBinary, nativeArgs(name, args), env);
}

/** The tests divided among as many processes as there are processors: an emulated GPU runs on one. */
async function nativeShards(name, args, env) {
  const shards = Array.from({ length: Number(jobs) }, async (_, i) => {
    const shard = { GTEST_TOTAL_SHARDS: jobs, GTEST_SHARD_INDEX: String(i) };
    const child = spawn(nativeBinary, nativeArgs(`${name}-${i}`, args), {
      cwd: root,
      stdio: "inherit",
      env: { ...process.env, ...env, ...shard },
    });
    const [code] = await once(child, "exit");
    return code ?? 1;
  });
  return Math.max(...(await Promise.all(shards)));
}

const cache = () => readFileSync(join(root, "build/CMakeCache.txt"), "utf8");
const jobs = String(availableParallelism());

/** The emulated GPU that CUDA's tests run on, where CUDA is built. */
async function buildEmulator() {
  if (!/^LAZULI_HAVE_CUDA:INTERNAL=ON$/m.test(cache())) return;
  await stage("emulator", () =>
    run("cmake", ["--build", "build", "--target", "lazuli_simt", "--parallel", jobs]).then(() => ""),
  );
}

async function nativeTests() {
  const found = () => /^LAZULI_TESTS_FOUND:INTERNAL=ON$/m.test(cache());
  if (!found()) await run("cmake", ["-DLAZULI_TESTS=ON", "build"]);
  if (!found()) return 0;
  await stage("native tests", async () => {
    await run("cmake", ["--build", "build", "--target", "lazuli_native_test", "--parallel", jobs]);
  });
  await run(process.execPath, ["scripts/dump-llama-step.mjs"]);
  const status = nativeTest("native", []);
  const emulator = join(root, "build/liblazuli_simt.so");
  if (!existsSync(emulator)) return status;
  const only = (suites) => [
    `--gtest_filter=${suites
      .split(" ")
      .map((suite) => `${suite}.*`)
      .join(":")}`,
  ];
  const fused = "Fuse FuseFuzz Fused";
  const cudaOnly = "CudaAttention CudaFused CudaMatmul CudaNccl Collective";
  const library = "Adamw Attention CrossEntropy Cumsum Index LinearCrossEntropy Norm Rope Softmax Sort";
  // Kernels once more: CUDA's, by the emulator; and the fused ones compiled by NVRTC.
  const cuda = await nativeShards("native-cuda", only(`${library} ${fused} ${cudaOnly}`), {
    LAZULI_TEST_DEVICE: "cuda",
    LAZULI_CUDA_PATH: emulator,
    LAZULI_SIMT_DEVICES: "8",
  });
  if (!existsSync(join(root, ".cuda/lib/libnvrtc.so.13"))) {
    console.log("no NVRTC: what is printed for it is not compiled (scripts/gpu/headers.sh gets it)");
    return status || cuda;
  }
  const cubin = nativeTest("native-cubin", only(fused), { LAZULI_TEST_DEVICE: "cubin" });
  return status || cuda || cubin;
}

await main(async () => {
  const args = process.argv.slice(2);
  if (report) mkdirSync(report, { recursive: true });
  await setup();
  await buildEmulator();
  const status = vitest(args);
  const nativeStatus = args.length === 0 ? await nativeTests() : 0;
  process.exitCode = status || nativeStatus;
});
