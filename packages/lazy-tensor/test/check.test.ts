import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { CheckError, checkFiles, type Finding, loadTypeScript } from "../src/cli/check.js";

const source = fileURLToPath(new URL("../src/index.js", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "lazuli-check-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** Each line in a function of its own: what follows `while (t)` is never reached. */
const bodies: Record<string, readonly string[]> = {
  decide: [
    "if (t) n;",
    "while (t) n;",
    "do n; while (t.gt(0));",
    "for (; t; ) n;",
    "const a = t ? 1 : 2;",
    "const b = !t;",
    "const c = t && x;",
    "const d = n > 0 || t || x;",
    "if (n > 0 && (t.gt(1))) n;",
    "if (p) n;",
    "Boolean(t);",
  ],
  numbers: [
    "t > 0;",
    "0 <= t;",
    "+t;",
    "-p;",
    "t + 1;",
    "t * t;",
    "t === 0;",
    "Number(t);",
    "for (const row of t) row;",
    "[...t];",
  ],
  fine: [
    "if (u) n;",
    "const a = u ?? t;",
    "if (!u) n;",
    "const same = t === p;",
    "async function f() { if ((await t.item()) > 0) n; }",
    "if (t.rank > 1 && t.shape[0]) n;",
    "if (x) n;",
  ],
};

function writeModel(name: string): string {
  const file = join(folder, `${name}.ts`);
  const head = [
    `import type { nn, Tensor } from ${JSON.stringify(source)};`,
    "declare const t: Tensor, u: Tensor | null, p: nn.Parameter, n: number, x: unknown;",
  ];
  writeFileSync(file, [...head, ...bodies[name].flatMap((line) => ["() => {", line, "};"])].join("\n"));
  return file;
}

// The compiler reads the declarations of everything first.
describe("lazuli check", { timeout: 120_000 }, () => {
  let all: Finding[] = [];
  beforeAll(() => {
    all = checkFiles(ts, Object.keys(bodies).map(writeModel));
  }, 120_000);

  /** `number of the line:column first words` */
  const findings = (name: string): string[] =>
    all
      .filter(({ file }) => file.endsWith(`${name}.ts`))
      .map(({ line, column, message }) => `${(line - 1) / 3}:${column} ${message.split(":")[0]}`);

  it("flags tensors that decide", () => {
    expect(findings("decide")).toEqual(
      ["1:5", "2:8", "3:14", "4:8", "5:11", "6:12", "7:11", "8:20", "9:15", "10:5", "11:9"].map(
        (place) => `${place} a tensor decides here`,
      ),
    );
  });

  it("flags tensors used as numbers, compared or iterated", () => {
    expect(findings("numbers")).toEqual([
      "1:1 a tensor meets `>`",
      "2:6 a tensor meets `<=`",
      "3:2 a tensor is used as a number",
      "4:2 a tensor is used as a number",
      "5:1 a tensor meets `+`",
      "6:1 a tensor meets `*`",
      "7:1 a tensor meets `===`",
      "8:8 a tensor is used as a number",
      "9:19 a tensor is iterated",
      "10:5 a tensor is iterated",
    ]);
  });

  it("lets pass what asks whether a tensor is there, and what was read", () => {
    expect(findings("fine")).toEqual([]);
  });

  it("says which file is missing, and what to install", () => {
    expect(() => checkFiles(ts, [join(folder, "none.ts")])).toThrow(CheckError);
    expect(() => loadTypeScript([join(folder, "nowhere")])).toThrow(/npm install --save-dev typescript/);
  });

  it("is a command that fails when something is found", () => {
    const bin = fileURLToPath(new URL("../bin/lazuli.js", import.meta.url));
    const run = (name: string): ReturnType<typeof spawnSync> =>
      spawnSync(process.execPath, [bin, "check", name], { encoding: "utf8", cwd: folder });
    const bad = run("decide.ts");
    expect(bad.stdout).toMatch(/^decide\.ts:4:5 a tensor decides here: .*where\(…\)/);
    expect(bad.status).toBe(1);
    writeFileSync(join(folder, "plain.ts"), "export const f = (n: number) => (n ? 1 : 2);\n");
    const good = run("plain.ts");
    expect([good.status, good.stdout]).toEqual([0, ""]);
    const missing = run("none.ts");
    expect([missing.status, missing.stderr]).toEqual([2, "lazuli: none.ts: there is no such file\n"]);
  });
});
