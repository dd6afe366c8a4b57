import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

const packages = fileURLToPath(new URL("packages/", import.meta.url));

export default defineConfig({
  resolve: {
    // Tests run the sources, so a failure points at the line that was written and no build is needed.
    alias: [
      {
        find: /^@lazuli\/(fx-trace|sharding|cuda-backend|lazy-tensor)$/,
        replacement: `${packages}$1/src/index.ts`,
      },
    ],
  },
  // Said here too, because files under test/ belong to no tsconfig.json that the transform would find.
  oxc: { decorator: { legacy: true } },
  test: {
    include: [
      "packages/*/test/**/*.test.ts",
      "examples/test/**/*.test.ts",
      "benchmarks/test/**/*.test.ts",
      "scripts/test/**/*.test.ts",
    ],
    // The native addon keeps threads and device state of its own: a process a worker, not a thread.
    pool: "forks",
    maxWorkers: 2,
  },
});
