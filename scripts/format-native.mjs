// Checks the native sources' format with clang-format; --write formats them instead.
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const native = fileURLToPath(new URL("../packages/cuda-backend/native", import.meta.url));
const files = existsSync(native)
  ? readdirSync(native, { recursive: true })
      .filter((file) => /\.(h|hpp|cpp|cu|cuh)$/.test(file) && !file.startsWith("generated"))
      .map((file) => join(native, file))
  : [];
if (files.length > 0) {
  const mode = process.argv.includes("--write") ? ["-i"] : ["--dry-run", "-Werror"];
  const { status, error } = spawnSync("clang-format", [...mode, ...files], { stdio: "inherit" });
  if (error) console.error("clang-format is missing: apt-get install -y clang-format");
  process.exitCode = error ? 2 : (status ?? 1);
}
