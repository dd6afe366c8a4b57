import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, it } from "vitest";

// What runs the tests on a GPU machine, where there is no vitest (scripts/gpu/tests.mjs and runner.mjs).

const gpu = fileURLToPath(new URL("../gpu/", import.meta.url));

describe("tests on a GPU machine", () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "lazuli-gpu-"));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  function run(body: string, ...flags: string[]): { lines: string[]; code: number | null } {
    const file = join(folder, "tests.mjs");
    writeFileSync(
      file,
      `import { afterAll, beforeAll, describe, expect, it } from ${JSON.stringify(`${gpu}runner.mjs`)};\n${body}`,
    );
    const { stdout, status } = spawnSync(
      process.execPath,
      [`${gpu}tests.mjs`, file, "--processes", "2", ...flags],
      { encoding: "utf8", timeout: 20_000 },
    );
    return { lines: stdout.trim().split("\n"), code: status };
  }

  it("counts, names what failed, and begins each suite in its process", () => {
    const { lines, code } = run(`
      let begun = 0;
      describe("a", () => {
        beforeAll(() => { begun++; });
        it.each([1, 2, 3])("%s", () => expect(begun).toBe(1));
        it("differs", () => expect(1).toBe(2));
        it.skipIf(true)("skipped", () => {});
      });`);
    expect(lines).toEqual([
      "FAILED a > differs",
      "  1 is not 2",
      "3 passed, 1 failed, 1 skipped, 0 left out",
    ]);
    expect(code).toBe(1);
  });

  it("goes on when a process dies or its GPU has failed", () => {
    const { lines } = run(`
      it("before", () => {});
      it("dies", () => process.kill(process.pid, "SIGSEGV"));
      it("fails for good", () => { globalThis.broken = true; throw new Error("the GPU failed: on purpose"); });
      for (let i = 0; i < 6; i++) it("later " + i, () => expect(globalThis.broken).toBe(undefined));`);
    expect(lines.at(-1)).toBe("7 passed, 2 failed, 0 skipped, 0 left out");
    expect(lines.join("\n")).toContain("its process died (SIGSEGV)");
  });

  it("names what the time did not suffice for", () => {
    const { lines, code } = run(
      `import { setTimeout as wait } from "node:timers/promises";
      describe("slow", () => { for (let i = 0; i < 9; i++) it("one " + i, () => wait(i < 3 ? 1 : 60_000)); });`,
      "--seconds",
      "1",
    );
    expect(lines).toEqual(["left out: slow (6)", "3 passed, 0 failed, 0 skipped, 6 left out"]);
    expect(code).toBe(0);
  });

  it("tells when what comes after the tests fails", () => {
    const { lines } = run(
      `it("fine", () => {}); afterAll(() => { throw new Error("9 bytes are still live"); });`,
    );
    expect(lines.join("\n")).toContain("9 bytes are still live");
    expect(lines.at(-1)).toContain("1 failed");
  });
});
