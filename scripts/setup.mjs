// Brings a fresh checkout to a state that runs: dependencies, TypeScript, native addon. Plain Node on purpose,
// because it runs before anything is installed.
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { delimiter, join } from "node:path";
import { performance } from "node:perf_hooks";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("..", import.meta.url));

/** A failure whose message is all that the user needs; `log` is the failed command's full output. */
export class SetupError extends Error {
  /** @param {string} message @param {{ exitCode?: number, log?: string }} [options] */
  constructor(message, { exitCode = 1, log = "" } = {}) {
    super(message);
    this.exitCode = exitCode;
    this.log = log;
  }
}

/** Runs a command in the repository root and gives its output; throws SetupError with the output on failure. */
export function run(command, args, { env = process.env } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: root, env, stdio: ["ignore", "pipe", "pipe"] });
    let log = "";
    child.stdout.on("data", (chunk) => {
      log += chunk;
    });
    child.stderr.on("data", (chunk) => {
      log += chunk;
    });
    child.on("error", (error) => reject(new SetupError(`cannot run ${command}: ${error.message}`)));
    child.on("close", (code, signal) => {
      if (code === 0) resolve(log);
      else reject(new SetupError(`${command} ${args.join(" ")} failed (${signal ?? code})`, { log }));
    });
  });
}

export async function stage(name, work) {
  const start = performance.now();
  const note = await work();
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  console.log(`${name.padEnd(12)} ${seconds.padStart(5)} s${note ? `  ${note}` : ""}`);
}

function onPath(name) {
  return (process.env.PATH ?? "").split(delimiter).some((folder) => folder && existsSync(join(folder, name)));
}

function installHint(aptPackage, brewPackage) {
  if (onPath("apt-get")) return `${process.getuid?.() === 0 ? "" : "sudo "}apt-get install -y ${aptPackage}`;
  return process.platform === "darwin" ? brewPackage : `install ${aptPackage} with your package manager`;
}

export function checkTools() {
  const missing = [];
  const [major, minor] = process.versions.node.split(".").map(Number);
  if (major < 20 || (major === 20 && minor < 19)) {
    missing.push(`Node ${process.versions.node} is too old: install Node 20.19 or newer`);
  }
  const compilers = [process.env.CXX, "c++", "g++", "clang++"].filter(Boolean);
  const works = (name) => spawnSync(name, ["--version"], { stdio: "ignore" }).status === 0;
  if (!compilers.some(works)) {
    missing.push(`no C++ compiler: ${installHint("g++", "xcode-select --install")}`);
  }
  if (!works("cmake")) missing.push(`no cmake: ${installHint("cmake", "brew install cmake")}`);
  if (!onPath("ninja") && !onPath("make")) {
    missing.push(`neither ninja nor make: ${installHint("ninja-build", "brew install ninja")}`);
  }
  if (missing.length > 0) throw new SetupError(missing.join("\n"), { exitCode: 2 });
}

function hasOneDnn() {
  if (process.env.dnnl_DIR) return true;
  const prefixes = [
    "/usr",
    "/usr/local",
    "/opt/homebrew",
    process.env.DNNLROOT,
    process.env.CMAKE_PREFIX_PATH,
  ];
  return prefixes.some(
    (prefix) =>
      prefix &&
      ["dnnl.hpp", "oneapi/dnnl/dnnl.hpp"].some((header) => existsSync(join(prefix, "include", header))),
  );
}

export async function ensureOneDnn() {
  // Tried and said once per installation, so that later runs stay quick and quiet.
  const said = join(root, "node_modules", ".lazuli-no-onednn");
  if (hasOneDnn() || existsSync(said)) return;
  let why = "";
  if (process.getuid?.() === 0 && onPath("apt-get") && !process.env.LAZULI_NO_APT) {
    console.log("oneDNN is missing: apt-get install -y libdnnl-dev (LAZULI_NO_APT=1 prevents it)");
    const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
    const install = () => run("apt-get", ["install", "-y", "libdnnl-dev"], { env });
    try {
      // A fresh container has no package lists until the first update.
      await install().catch(() => run("apt-get", ["update"], { env }).then(install));
    } catch {
      why = " (apt-get could not install it)";
    }
    if (hasOneDnn()) return;
  }
  const hint = installHint("libdnnl-dev", "brew install onednn");
  console.log(`no oneDNN${why}: matrix products use the slower built-in kernel; for the fast one: ${hint}`);
  mkdirSync(join(root, "node_modules"), { recursive: true });
  writeFileSync(said, "");
}

function hashOf(...parts) {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part).update("\0");
  return hash.digest("hex");
}

function readIfThere(path) {
  return existsSync(path) ? readFileSync(path, "utf8") : "";
}

function manifests() {
  const folders = [
    "",
    "examples",
    "benchmarks",
    ...readdirSync(join(root, "packages")).map((p) => `packages/${p}`),
  ];
  return folders.map((folder) => readIfThere(join(root, folder, "package.json")));
}

export async function installDependencies() {
  const lock = readIfThere(join(root, "pnpm-lock.yaml"));
  const stampPath = join(root, "node_modules", ".lazuli-stamp");
  const stamp = hashOf(root, process.platform, process.arch, lock, ...manifests());
  if (readIfThere(stampPath) === stamp) return;
  const { packageManager } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  await stage("dependencies", async () => {
    // CI=1: pnpm must never wait for an answer here.
    const env = { ...process.env, CI: "1" };
    await run("npx", ["-y", packageManager, "install", "--frozen-lockfile"], { env });
    writeFileSync(stampPath, stamp);
  });
}

export async function buildTypeScript() {
  await stage("typescript", async () => {
    await run(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-b"]);
  });
}

/** Runs cmake-js only when something that cmake itself cannot see has changed. */
export async function configureNative() {
  const build = join(root, "build");
  const stampPath = join(build, ".lazuli-configured");
  const lock = readIfThere(join(root, "pnpm-lock.yaml"));
  const found = `${hasOneDnn()} ${onPath("mpicc")}`;
  const stamp = hashOf(root, lock, process.arch, process.env.CXX ?? "", found);
  if (existsSync(join(build, "CMakeCache.txt")) && readIfThere(stampPath) === stamp) return;
  // What an earlier cmake found or did not find (compiler, generator, oneDNN, MPI) must not survive in its cache.
  rmSync(join(build, "CMakeCache.txt"), { force: true });
  rmSync(join(build, "CMakeFiles"), { recursive: true, force: true });
  const require = createRequire(join(root, "packages/cuda-backend/package.json"));
  const cmakeJs = require.resolve("cmake-js/bin/cmake-js");
  await stage("configure", async () => {
    await run(process.execPath, [cmakeJs, "configure", "-d", root]);
    writeFileSync(stampPath, stamp);
  });
}

export async function buildNative() {
  const generateOps = join(root, "scripts/generate-ops.mjs");
  if (existsSync(generateOps))
    await stage("ops header", async () => void (await run(process.execPath, [generateOps])));
  await configureNative();
  await stage("native", async () => {
    await run("cmake", [
      "--build",
      "build",
      "--config",
      "Release",
      "--parallel",
      String(availableParallelism()),
    ]);
  });
}

export async function setup() {
  checkTools();
  await ensureOneDnn();
  await installDependencies();
  await buildTypeScript();
  await buildNative();
}

/** Runs `work` as a program's whole body: an expected failure prints its lines and log, never a stack. */
export async function main(work) {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    if (error.log) console.error(error.log.trimEnd());
    console.error(error.message);
    process.exitCode = error.exitCode;
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main(setup);
