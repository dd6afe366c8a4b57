import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { checkImports } from "../check-imports.mjs";

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "lazuli-imports-"));
});
afterEach(() => rmSync(root, { recursive: true }));

function check(files: Record<string, string>): string[] {
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
  return checkImports(root);
}

describe("between packages", () => {
  test("the allowed direction passes", () => {
    expect(
      check({
        "packages/fx-trace/src/index.ts": `import { readFileSync } from "node:fs";`,
        "packages/sharding/src/index.ts": `import { Graph } from "@lazuli/fx-trace";`,
        "packages/lazy-tensor/src/index.ts": `export * from "@lazuli/sharding";\nimport "@lazuli/cuda-backend";`,
        "examples/llama/train.ts": `import { Tensor } from "@lazuli/lazy-tensor";`,
        "benchmarks/src/cli.ts": `import { Tensor } from "@lazuli/lazy-tensor";`,
      }),
    ).toEqual([]);
  });

  test.each([
    ["a back-arrow", "packages/fx-trace/src/a.ts", "@lazuli/lazy-tensor", "packages/lazy-tensor"],
    ["a sibling", "packages/sharding/src/a.ts", "@lazuli/cuda-backend", "packages/cuda-backend"],
    ["a subpath", "packages/sharding/src/a.ts", "@lazuli/cuda-backend/x.js", "packages/cuda-backend"],
    ["a skipped layer", "examples/llama/a.ts", "@lazuli/fx-trace", "packages/fx-trace"],
    [
      "a relative way out",
      "packages/sharding/src/a.ts",
      "../../cuda-backend/src/x.js",
      "packages/cuda-backend",
    ],
  ])("%s fails", (_, file, specifier, target) => {
    const name = file.startsWith("examples") ? "examples" : `packages/${file.split("/")[1]}`;
    expect(check({ [file]: `// first line\nimport { X } from "${specifier}";` })).toEqual([
      `${file}:2: ${name} must not import ${target} ("${specifier}")`,
    ]);
  });

  test("types count, dynamic imports too", () => {
    const problems = check({
      "packages/fx-trace/src/a.ts": [
        `import type { A } from "@lazuli/sharding";`,
        `export type { B } from "@lazuli/sharding";`,
        `type C = import("@lazuli/sharding").C;`,
        `await import("@lazuli/sharding");`,
      ].join("\n"),
    });
    expect(problems.map((problem) => problem.split(":")[1])).toEqual(["1", "2", "3", "4"]);
  });

  test("an allowed package is imported by name, not by path", () => {
    expect(check({ "packages/sharding/src/a.ts": `import "../../fx-trace/src/x.js";` })).toEqual([
      `packages/sharding/src/a.ts:1: import packages/fx-trace by its package name ("../../fx-trace/src/x.js")`,
    ]);
  });
});

describe("between files", () => {
  test("a cycle is shown edge by edge", () => {
    expect(
      check({
        "packages/fx-trace/src/a.ts": `import "./b.js";`,
        "packages/fx-trace/src/b.ts": `\nimport "./c/index.js";`,
        "packages/fx-trace/src/c/index.ts": `export * from "../a.js";`,
      }),
    ).toEqual([
      "packages/fx-trace/src/a.ts:1: import cycle: imports packages/fx-trace/src/b.ts",
      "packages/fx-trace/src/b.ts:2: import cycle: imports packages/fx-trace/src/c/index.ts",
      "packages/fx-trace/src/c/index.ts:1: import cycle: imports packages/fx-trace/src/a.ts",
    ]);
  });

  test("type-only and dynamic imports close no cycle", () => {
    expect(
      check({
        "packages/fx-trace/src/a.ts": `import "./b.js";\nimport "./c.js";`,
        "packages/fx-trace/src/b.ts": `import type { A } from "./a.js";`,
        "packages/fx-trace/src/c.ts": `const a = () => import("./a.js");`,
      }),
    ).toEqual([]);
  });
});
