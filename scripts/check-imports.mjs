// Holds the import direction: benchmarks -> examples -> lazy-tensor -> {sharding, cuda-backend} -> fx-trace,
// and no import cycles between the files of a package.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

/** What each package may import of ours; a package not named here may import nothing. */
const allowed = {
  "packages/fx-trace": [],
  "packages/sharding": ["packages/fx-trace"],
  "packages/cuda-backend": ["packages/fx-trace"],
  "packages/lazy-tensor": ["packages/fx-trace", "packages/sharding", "packages/cuda-backend"],
  examples: ["packages/lazy-tensor"],
  benchmarks: ["packages/lazy-tensor", "examples"],
};

function sourceFiles(folder) {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    if (entry.name === "node_modules" || entry.name === "dist" || entry.name === "native") return [];
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return sourceFiles(path);
    return /\.[mc]?tsx?$/.test(entry.name) && !/\.d\.[mc]?ts$/.test(entry.name) ? [path] : [];
  });
}

/** Every module specifier in a file. `eager`: it is evaluated while the importing module loads. */
function importsOf(file) {
  const source = ts.createSourceFile(file, readFileSync(file, "utf8"), ts.ScriptTarget.Latest, true);
  const found = [];
  const add = (literal, eager) => {
    if (!literal || !ts.isStringLiteralLike(literal)) return;
    const line = source.getLineAndCharacterOfPosition(literal.getStart()).line + 1;
    found.push({ specifier: literal.text, line, eager });
  };
  const visit = (node) => {
    if (ts.isImportDeclaration(node)) add(node.moduleSpecifier, !node.importClause?.isTypeOnly);
    else if (ts.isExportDeclaration(node)) add(node.moduleSpecifier, !node.isTypeOnly);
    else if (ts.isImportTypeNode(node)) add(node.argument.literal, false);
    else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword)
      add(node.arguments[0], false);
    ts.forEachChild(node, visit);
  };
  visit(source);
  return found;
}

function resolveRelative(file, specifier) {
  const target = resolve(dirname(file), specifier);
  const candidates = [
    target,
    target.replace(/\.([mc]?)js(x?)$/, ".$1ts$2"),
    `${target}.ts`,
    join(target, "index.ts"),
  ];
  return candidates.find((path) => /\.[mc]?tsx?$/.test(path) && existsSync(path)) ?? target;
}

/** Shortest cycle through `start`, as edges, or undefined. */
function cycleThrough(start, edges) {
  const cameBy = new Map();
  const queue = [start];
  for (const file of queue) {
    for (const edge of edges.get(file) ?? []) {
      if (edge.to === start) {
        const path = [edge];
        while (path[0].from !== start) path.unshift(cameBy.get(path[0].from));
        return path;
      }
      if (cameBy.has(edge.to)) continue;
      cameBy.set(edge.to, edge);
      queue.push(edge.to);
    }
  }
  return undefined;
}

/** All offences below `root`, one line each, `file:line` first. */
export function checkImports(root) {
  const show = (path) => relative(root, path).split(sep).join("/");
  const packageOf = (path) => Object.keys(allowed).find((name) => show(path).startsWith(`${name}/`));
  const problems = [];
  for (const [name, targets] of Object.entries(allowed)) {
    const edges = new Map();
    for (const file of sourceFiles(join(root, name))) {
      for (const { specifier, line, eager } of importsOf(file)) {
        const isRelative = specifier.startsWith(".");
        const path = isRelative ? resolveRelative(file, specifier) : undefined;
        const own = specifier.match(/^@lazuli\/([^/]+)/)?.[1];
        const target = path
          ? packageOf(path)
          : own && Object.keys(allowed).find((other) => other === own || other === `packages/${own}`);
        if (target === name && path && eager) {
          edges.set(file, [...(edges.get(file) ?? []), { from: file, to: path, line }]);
        }
        if (!target || target === name) continue;
        const at = `${show(file)}:${line}`;
        if (!targets.includes(target))
          problems.push(`${at}: ${name} must not import ${target} ("${specifier}")`);
        else if (isRelative) problems.push(`${at}: import ${target} by its package name ("${specifier}")`);
      }
    }
    const reported = new Set();
    for (const file of edges.keys()) {
      if (reported.has(file)) continue;
      const cycle = cycleThrough(file, edges);
      for (const edge of cycle ?? []) {
        reported.add(edge.from);
        problems.push(`${show(edge.from)}:${edge.line}: import cycle: imports ${show(edge.to)}`);
      }
    }
  }
  return problems;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const problems = checkImports(fileURLToPath(new URL("..", import.meta.url)));
  for (const problem of problems) console.error(problem);
  process.exitCode = problems.length > 0 ? 1 : 0;
}
