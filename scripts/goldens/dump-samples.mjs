// Writes the samples of packages/lazy-tensor/test/ops.samples.ts and their numbers as JSON to the file named: what
// scripts/goldens/ops.py computes goldens of, and all it knows of them.
import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { runnerImport } from "vite";

const root = fileURLToPath(new URL("../../", import.meta.url));
const { module } = await runnerImport(`${root}packages/lazy-tensor/test/ops.samples.dump.ts`, {
  root,
  resolve: { alias: [{ find: "@lazuli/fx-trace", replacement: `${root}packages/fx-trace/src/index.ts` }] },
  logLevel: "error",
});
writeFileSync(process.argv[2], JSON.stringify(module.dumpSamples()));
