import {
  type FxGraph,
  FxNode,
  formatKey,
  getItem,
  isPlainObject,
  isRandom,
  SymExpr,
  TraceError,
} from "@lazuli/fx-trace";

/** The graph as a TypeScript module that exports `forward(self, ...)`. */
export function generateCode(graph: FxGraph, label: string): string {
  const body = new Body(graph).lines();
  const uses = (text: string): boolean => body.some((line) => line.includes(text));
  const imports = ["fx", ...(uses("noGrad(") ? ["noGrad"] : []), "type Tensor"];
  const params = graph.params.map(({ value }, i) => `${paramNameOf(graph, i)}: ${typeOf(value)}`);
  return [
    `import { ${imports.join(", ")} } from "@lazuli/lazy-tensor";`,
    "",
    ...(uses("op.") ? ["const { op } = fx;", ""] : []),
    `/** ${label}, traced. */`,
    `export function forward(${["self: fx.GraphModule", ...params].join(", ")}) {`,
    ...body.map((line) => `  ${line}`),
    "}",
    "",
  ].join("\n");
}

/** A placeholder has its node's name; a structure one that no node has. */
function paramNameOf(graph: FxGraph, i: number): string {
  const { name, value } = graph.params[i];
  if (value instanceof FxNode) return value.name;
  const taken = new Set(graph.nodes.map((node) => node.name));
  let free = name || `arg${i}`;
  while (taken.has(free)) free = `${free}_`;
  return free;
}

function typeOf(value: unknown): string {
  if (value instanceof FxNode) return "Tensor";
  if (Array.isArray(value)) return `[${value.map(typeOf).join(", ")}]`;
  if (isPlainObject(value)) {
    const fields = Object.entries(value).map(([key, item]) => `${formatKey(key)}: ${typeOf(item)}`);
    return fields.length > 0 ? `{ ${fields.join("; ")} }` : "object";
  }
  if (value === undefined || value === null || typeof value === "string")
    return literal(value, "an argument");
  return typeof value === "object" || typeof value === "function" ? "unknown" : typeof value;
}

class Body {
  private scope = "";

  constructor(private readonly graph: FxGraph) {}

  lines(): string[] {
    const { graph } = this;
    const scoped = graph.nodes.some((node) => node.scope !== "");
    return [
      ...(scoped ? ["using at = fx.scopes();"] : []),
      ...graph.params.flatMap(({ value }, i) =>
        value instanceof FxNode ? [] : unpack(value, paramNameOf(graph, i)),
      ),
      ...this.symbolLines(),
      ...graph.nodes.flatMap((node) => this.nodeLines(node)),
    ];
  }

  /** Where each symbolic dim is read. */
  private symbolLines(): string[] {
    return [...this.graph.symbols.keys()].map((symbol) => {
      for (const node of this.graph.placeholders) {
        const dim = node.dims?.[0].findIndex((size) => String(size) === symbol) ?? -1;
        if (dim >= 0) return `const ${symbol} = ${node.name}.shape[${dim}];`;
      }
      throw new TraceError("code", `no input has the symbolic dim ${symbol}`);
    });
  }

  private nodeLines(node: FxNode): string[] {
    const where = (): string[] => {
      if (node.scope === this.scope || node.op === "output") return [];
      this.scope = node.scope;
      return [`at(${JSON.stringify(node.scope)});`];
    };
    if (node.op === "placeholder") return [];
    if (node.op === "output") return [`return ${literal(node.args[0], node.name)};`];
    const call = callText(node);
    const text =
      node.noGrad && node.op !== "get_attr" && node.op !== "set_attr" ? `noGrad(() => ${call})` : call;
    return [...where(), node.op === "set_attr" ? `${text};` : `const ${node.name} = ${text};`];
  }
}

/** Each placeholder in a structure, read from the argument. */
function unpack(value: unknown, text: string): string[] {
  if (value instanceof FxNode) return [`const ${value.name} = ${text};`];
  if (Array.isArray(value)) return value.flatMap((item, i) => unpack(item, `${text}[${i}]`));
  if (isPlainObject(value))
    return Object.entries(value).flatMap(([key, item]) => unpack(item, access(text, key)));
  return [];
}

const access = (text: string, key: unknown): string =>
  typeof key === "string" && formatKey(key) === key ? `${text}.${key}` : `${text}[${JSON.stringify(key)}]`;

function callText(node: FxNode): string {
  const args = node.args.map((arg) => literal(arg, node.name));
  const path = JSON.stringify(node.targetName);
  switch (node.op) {
    case "get_attr":
      return `self.getAttr(${path})`;
    case "set_attr":
      return `self.assign(${path}, ${args[0]})`;
    case "call_module":
      return `self.call(${[path, ...args].join(", ")})`;
    default: {
      if (node.target === getItem) return access(args[0], node.args[1]);
      const attrs = Object.entries(node.attrs).filter(([key]) => !drawsImplicitly(node) || key !== "stream");
      const object = attrs.map(([key, value]) => `${key}: ${literal(value, node.name)}`);
      return `op.${node.targetName}(${[...args, ...(object.length > 0 ? [`{ ${object.join(", ")} }`] : [])].join(", ")})`;
    }
  }
}

const drawsImplicitly = (node: FxNode): boolean => isRandom(node.target) && node.args.length === 0;

/** A value as an expression. */
function literal(value: unknown, where: string): string {
  if (value instanceof FxNode) return value.name;
  if (value instanceof SymExpr) return `${value}`;
  if (value instanceof Uint8Array) return `new Uint8Array([${value.join(", ")}])`;
  if (Array.isArray(value)) return `[${value.map((item) => literal(item, where)).join(", ")}]`;
  if (isPlainObject(value)) {
    const fields = Object.entries(value).map(([key, item]) => {
      const text = literal(item, where);
      return text === key ? key : `${formatKey(key)}: ${text}`;
    });
    return fields.length > 0 ? `{ ${fields.join(", ")} }` : "{}";
  }
  switch (typeof value) {
    case "string":
      return JSON.stringify(value);
    case "bigint":
      return `${value}n`;
    case "number":
      return Object.is(value, -0) ? "-0" : String(value);
    case "boolean":
    case "undefined":
      return String(value);
    default:
      if (value === null) return "null";
      throw new TraceError(
        "code",
        `${where} has an argument that cannot be written down: ${describe(value)}`,
      );
  }
}

const describe = (value: unknown): string =>
  typeof value === "function" ? `the function ${value.name}` : `a ${value?.constructor?.name}`;
