// Writes packages/cuda-backend/native/generated/ops.h from the op table, so that C++ and TypeScript agree on opcodes,
// attributes and names. Needs the built fx-trace package. Arguments (for tests): the module that exports
// `opTable`, and the file to write.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));

const keywords = new Set(
  (
    "alignas alignof and and_eq asm auto bitand bitor bool break case catch char class compl concept const continue " +
    "default delete do double else enum explicit export extern false float for friend goto if inline int long mutable " +
    "namespace new noexcept not not_eq nullptr operator or or_eq private protected public register requires return " +
    "short signed sizeof static struct switch template this throw true try typedef typeid typename union unsigned using " +
    "virtual void volatile while xor xor_eq"
  ).split(" "),
);

const identifier = (name) => {
  if (!/^[a-z][a-z0-9_]*$/.test(name)) throw new Error(`not a snake_case name: ${name}`);
  return keywords.has(name) ? `${name}_` : name;
};

const kinds = {
  int: "integer",
  float: "real",
  bool: "boolean",
  ints: "ints",
  dtype: "dtype",
  bytes: "bytes",
};
const kindOf = (kind) => {
  if (Array.isArray(kind)) return "choice";
  if (!kinds[kind]) throw new Error(`unknown attribute kind: ${kind}`);
  return kinds[kind];
};

const lowerings = [
  "elementwise",
  "source",
  "reduction",
  "view",
  "contraction",
  "kernel",
  "composite",
  "leaf",
];
const operandLimit = (most) => (Number.isFinite(most) ? most : 0xffffffff);

function opRow(op) {
  const [least, most] = typeof op.arity === "number" ? [op.arity, op.arity] : op.arity;
  if (!lowerings.includes(op.lower)) throw new Error(`${op.name}: unknown lowering ${op.lower}`);
  const attrs = Object.keys(op.attrSchema);
  const table = attrs.length > 0 ? `attrs_of::${identifier(op.name)}` : "nullptr";
  return `    {"${op.name}", LowerKind::${op.lower}, ${least}u, ${operandLimit(most)}u, ${op.results}u, ${table}, ${attrs.length}u},`;
}

/** The header's text for an op table. */
export function opsHeader(opTable) {
  opTable.forEach((op, i) => {
    if (op.code !== i) throw new Error(`${op.name}: opcode ${op.code} at position ${i} of the op table`);
  });
  const withAttrs = opTable.filter((op) => Object.keys(op.attrSchema).length > 0);
  const positions = withAttrs.map((op) => {
    const names = Object.keys(op.attrSchema).map((name, i) => `${identifier(name)} = ${i}`);
    return `namespace ${identifier(op.name)} { inline constexpr size_t ${names.join(", ")}; }`;
  });
  const schemas = withAttrs.map((op) => {
    const rows = Object.entries(op.attrSchema).map(
      ([name, kind]) => `{"${name}", AttrKind::${kindOf(kind)}, ${Array.isArray(kind) ? kind.length : 0}u}`,
    );
    return `inline constexpr AttrInfo ${identifier(op.name)}[] = {${rows.join(", ")}};`;
  });
  return `// Written by scripts/generate-ops.mjs from the op table (packages/fx-trace). Do not edit.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lazuli {

/// Opcodes, as on the wire.
enum class Op : uint32_t {
${opTable.map((op) => `  ${identifier(op.name)},`).join("\n")}
};
inline constexpr uint32_t kOpCount = ${opTable.length};

enum class LowerKind : uint8_t { ${lowerings.join(", ")} };
enum class AttrKind : uint8_t { ${Object.values(kinds).join(", ")}, choice };

struct AttrInfo {
  const char* name;
  AttrKind kind;
  uint32_t choices;  // of a choice
};

struct OpInfo {
  const char* name;
  LowerKind lower;
  uint32_t leastOperands, mostOperands, results;
  const AttrInfo* attrs;
  uint32_t attrCount;
};

/// Positions of attributes in Node::attrs.
namespace attr {
${positions.join("\n")}
}  // namespace attr

namespace attrs_of {
${schemas.join("\n")}
}  // namespace attrs_of

inline constexpr OpInfo kOps[kOpCount] = {
${opTable.map(opRow).join("\n")}
};

inline constexpr const OpInfo& info(Op op) { return kOps[static_cast<uint32_t>(op)]; }
inline constexpr const char* name(Op op) { return info(op).name; }

}  // namespace lazuli
`;
}

/** Writes the header only when it differs: every native source depends on it. */
export async function generateOps(
  table = resolve(root, "packages/fx-trace/dist/index.js"),
  target = resolve(root, "packages/cuda-backend/native/generated/ops.h"),
) {
  const { opTable } = await import(pathToFileURL(table).href);
  if (!Array.isArray(opTable)) throw new Error(`${table} exports no opTable; build fx-trace first`);
  const text = opsHeader(opTable);
  if (existsSync(target) && readFileSync(target, "utf8") === text) return false;
  mkdirSync(dirname(target), { recursive: true });
  writeFileSync(target, text);
  return true;
}

if (process.argv[1] === fileURLToPath(import.meta.url))
  await generateOps(...process.argv.slice(2).map((p) => resolve(p)));
