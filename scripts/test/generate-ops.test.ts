import { mkdtempSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { generateOps, opsHeader } from "../generate-ops.mjs";

const table = [
  { name: "neg", code: 0, attrSchema: {}, arity: 1, results: 1, lower: "elementwise" },
  {
    name: "and",
    code: 1,
    attrSchema: { dim: "int", double: ["no", "yes"] },
    arity: [1, Number.POSITIVE_INFINITY],
    results: 2,
    lower: "kernel",
  },
];

describe("the ops header", () => {
  it("lists ops, attributes and arities, with C++ keywords made names", () => {
    const text = opsHeader(table);
    expect(text).toContain("  neg,\n  and_,\n};\ninline constexpr uint32_t kOpCount = 2;");
    expect(text).toContain("namespace and_ { inline constexpr size_t dim = 0, double_ = 1; }");
    expect(text).toContain(`{"dim", AttrKind::integer, 0u}, {"double", AttrKind::choice, 2u}`);
    expect(text).toContain(`{"neg", LowerKind::elementwise, 1u, 1u, 1u, nullptr, 0u},`);
    expect(text).toContain(`{"and", LowerKind::kernel, 1u, 4294967295u, 2u, attrs_of::and_, 2u},`);
  });

  it("refuses a table that is out of order or holds unknown kinds", () => {
    expect(() => opsHeader([table[1]])).toThrow("opcode 1 at position 0");
    expect(() => opsHeader([{ ...table[0], attrSchema: { x: "string" } }])).toThrow("unknown attribute kind");
    expect(() => opsHeader([{ ...table[0], lower: "magic" }])).toThrow("unknown lowering");
    expect(() => opsHeader([{ ...table[0], name: "Neg" }])).toThrow("not a snake_case name");
  });
});

describe("generating", () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "lazuli-ops-"));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  it("writes only what differs", async () => {
    const source = join(folder, "table.mjs");
    const target = join(folder, "generated", "ops.h");
    writeFileSync(source, `export const opTable = ${JSON.stringify([table[0]])};`);
    expect(await generateOps(source, target)).toBe(true);
    expect(readFileSync(target, "utf8")).toBe(opsHeader([table[0]]));
    utimesSync(target, 1, 1);
    expect(await generateOps(source, target)).toBe(false);
    expect(statSync(target).mtimeMs).toBe(1000);
  });

  it("says when there is no table", async () => {
    const source = join(folder, "empty.mjs");
    writeFileSync(source, "export {};");
    await expect(generateOps(source, join(folder, "ops.h"))).rejects.toThrow("exports no opTable");
  });
});
