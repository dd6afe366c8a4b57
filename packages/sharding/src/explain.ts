import { dce, flopsOf, formatType, type Graph, isTransfer, type Node, sizeOf } from "@lazuli/fx-trace";
import { sentBytes } from "./cost.js";
import type { Mesh } from "./mesh.js";

/** Collectives of one kind that a program runs at one place. */
export interface CollectiveRow {
  readonly op: string;
  /** Names of the mesh axes it goes over, the major first. */
  readonly axes: readonly string[];
  /** What one device sends in one run of the program, all `times` together, by the usual ring algorithms. */
  readonly bytes: number;
  readonly times: number;
  /** Whether it is started before its value is needed, and the device computes meanwhile. */
  readonly isAsync: boolean;
  /** FLOPs of products and attention between start and end, all `times` together: what it can hide behind. */
  readonly hiddenFlops: number;
  /** Module path of the op that it is run for. */
  readonly scope: string;
  /** Of the operand, on one device: `float32[8, 16]`. */
  readonly type: string;
  /** What it is there for: `partial sums of dot_general in blocks.0.mlp`. */
  readonly why: string;
}

const partials: Readonly<Record<string, string>> = {
  sum: "partial sums",
  prod: "partial products",
  max: "partial maxima",
  min: "partial minima",
};

/** What a program reads and gives, by name; "" where something has none. */
export interface EndNames {
  readonly inputs?: readonly string[];
  readonly outputs?: readonly string[];
}

interface Use {
  readonly user: Node;
  readonly operand: number;
}

/** Who reads each value. */
class Users {
  private readonly uses = new Map<Node, Use[]>();

  constructor(
    private readonly graph: Graph,
    private readonly names: EndNames,
  ) {
    for (const user of graph.nodes) {
      user.inputs.forEach((value, operand) => {
        const list = this.uses.get(value);
        if (list) list.push({ user, operand });
        else this.uses.set(value, [{ user, operand }]);
      });
    }
  }

  of(value: Node): readonly Use[] {
    return this.uses.get(value) ?? [];
  }

  /** What it is called among the graph's outputs: its name, or `output 2`; null for none of them. */
  output(value: Node): string | null {
    const index = this.graph.outputs.indexOf(value);
    return index < 0 ? null : this.names.outputs?.[index] || `output ${index}`;
  }

  /** What an input is called: its name, or `input 2`. */
  input({ attrs }: Node): string {
    const index = attrs.index as number;
    return this.names.inputs?.[index] || `input ${index}`;
  }
}

const views = new Set(["cast", "detach", "result", "collective_done"]);
const isView = ({ op }: Node): boolean => op.lower === "view" || views.has(op.name);
/** Ops that pass elements on, each where it is or to another place. */
const passesOn = (node: Node): boolean =>
  isView(node) || node.op.lower === "elementwise" || isTransfer(node) || node.op.name === "shard_slice";

/** The operand that the elements come from: the largest, of a `where` the value that is kept. */
function mainOperand({ inputs }: Node): Node {
  return inputs.reduce((main, x) =>
    sizeOf(x.shape) > sizeOf(main.shape) || main.dtype === "bool" ? x : main,
  );
}

/** What made a value, behind ops of the kind given. */
function originOf(value: Node, skips: (node: Node) => boolean): Node {
  let node = value;
  while (skips(node) && node.inputs.length > 0) node = mainOperand(node);
  return node.op.name === "result" ? node.inputs[0] : node;
}

const at = ({ op, scope }: Node): string => (scope ? `${op.name} in ${scope}` : op.name);

/** The parameters whose gradients an optimizer's step makes of the value, as program inputs; null where of none. */
function gradientOf(value: Node, users: Users): Node[] | null {
  const params: Node[] = [];
  const seen = new Set<Node>();
  const stack = [value];
  for (let node = stack.pop(); node; node = stack.pop()) {
    if (seen.has(node)) continue;
    seen.add(node);
    for (const { user, operand } of users.of(node)) {
      if (user.op.name === "adamw_update" && operand === 1) params.push(originOf(user.inputs[0], passesOn));
      else if (passesOn(user)) stack.push(user);
    }
  }
  return params.length > 0 ? params : null;
}

/** Where a value is read, behind views and other collectives; `output 2` where it leaves the program. */
function readerOf(value: Node, users: Users): string {
  let node = value;
  for (;;) {
    const [first] = users.of(node);
    const output = users.output(node);
    if (!first) return output ?? "nothing";
    if (!isView(first.user) && !isTransfer(first.user)) return at(first.user);
    node = first.user;
  }
}

/** The scope that manualSharding runs a function in. */
export const MANUAL_SCOPE = "manualSharding";

function whyOf(node: Node, users: Users): string {
  const { op, attrs, inputs } = node;
  if (node.scope.split(".").includes(MANUAL_SCOPE)) return "written by hand";
  if (op.name === "all_reduce" || op.name === "reduce_scatter") {
    const what = `${partials[attrs.kind as string]} of ${at(originOf(inputs[0], passesOn))}`;
    const params = gradientOf(node, users);
    return params ? `${gradientText(params, users)}: ${what}` : what;
  }
  const source = originOf(inputs[0], isView);
  const reader = readerOf(node, users);
  return source.op.name === "input" ? `${users.input(source)} for ${reader}` : `layout of ${reader}`;
}

/** `gradient of up.weight and 2 more` */
function gradientText(params: readonly Node[], users: Users): string {
  const inputs = params.filter(({ op }) => op.name === "input").map((param) => users.input(param));
  const names = [...new Set(inputs.filter((name) => !/^input \d+$/.test(name)))];
  if (names.length === 0) return "gradient";
  return `gradient of ${names[0]}${names.length > 1 ? ` and ${names.length - 1} more` : ""}`;
}

/** Reasons of merged collectives: one if they are equal, else the first and how many others. */
function merged(whys: readonly string[]): string {
  const different = [...new Set(whys)];
  return different.length <= 1 ? different.join() : `${different[0]}; and ${different.length - 1} more`;
}

/** Of collectives that are only started, the FLOPs until their value is waited for. */
function hiddenFlops({ nodes }: Graph): Map<Node, number> {
  const before = new Map<Node, number>();
  const hidden = new Map<Node, number>();
  let flops = 0;
  for (const node of nodes) {
    if (isTransfer(node)) before.set(node, flops);
    if (node.op.name === "collective_done") {
      const [value] = node.inputs;
      hidden.set(value, flops - (before.get(value) as number));
    }
    flops += flopsOf(node);
  }
  return hidden;
}

/**
 * The communication of a partitioned (local) graph, most bytes first: collectives of the same op, axes, scope and type
 * are one row. What no output needs is not run, and not counted. `names` are what `why` calls inputs and outputs.
 */
export function explainSharding(graph: Graph, mesh: Mesh, names: EndNames = {}): CollectiveRow[] {
  const live = dce(graph);
  const users = new Users(live, names);
  const hidden = hiddenFlops(live);
  const rows = new Map<string, { row: CollectiveRow; whys: string[] }>();
  for (const node of live.nodes) {
    if (!isTransfer(node)) continue;
    const positions = node.attrs.axes as readonly number[];
    const axes = positions.map((axis) => mesh.axisNames[axis]);
    const { shape, dtype } = node.inputs[0];
    const bytes = sentBytes(node);
    const isAsync = hidden.has(node);
    const hiddenFlops = hidden.get(node) ?? 0;
    const type = formatType({ shape, dtype });
    const { scope } = node;
    const op = node.op.name;
    const key = [op, axes.join(), scope, type, isAsync].join("|");
    const why = whyOf(node, users);
    const known = rows.get(key);
    if (known) {
      known.whys.push(why);
      const { row } = known;
      known.row = {
        ...row,
        bytes: row.bytes + bytes,
        times: row.times + 1,
        hiddenFlops: row.hiddenFlops + hiddenFlops,
        why: merged(known.whys),
      };
    } else {
      const row = { op, axes, bytes, times: 1, isAsync, hiddenFlops, scope, type, why };
      rows.set(key, { row, whys: [why] });
    }
  }
  return [...rows.values()].map(({ row }) => row).sort((a, b) => b.bytes - a.bytes);
}

/** `1.23 MB`; powers of ten, as links are rated. */
function scaled(value: number, unit: string): string {
  const prefixes = ["", "k", "M", "G", "T", "P"];
  let rest = value;
  let power = 0;
  while (rest >= 1000 && power < prefixes.length - 1) {
    rest /= 1000;
    power++;
  }
  return `${power === 0 ? Math.round(rest) : rest.toPrecision(3)} ${prefixes[power]}${unit}`;
}

const formatBytes = (bytes: number): string => scaled(bytes, "B");

/** Lines of columns as wide as their longest cell; those of numbers are aligned at the right. */
function table(lines: readonly (readonly string[])[], right: ReadonlySet<number>): string[] {
  const widths = lines[0].map((_, column) => Math.max(...lines.map((line) => line[column].length)));
  return lines.map((line) =>
    line
      .map((cell, column) =>
        right.has(column) ? cell.padStart(widths[column]) : cell.padEnd(widths[column]),
      )
      .join("  ")
      .trimEnd(),
  );
}

const bytesIn = (rows: readonly CollectiveRow[]): number => rows.reduce((sum, { bytes }) => sum + bytes, 0);

const starred = (text: string): string => text.replaceAll(/\.\d+(?=\.|\b)/g, ".*");

/** Rows that are alike but for a number in the module's path as one: `layers.*` for every layer. */
function folded(rows: readonly CollectiveRow[]): CollectiveRow[] {
  const groups = new Map<string, CollectiveRow[]>();
  for (const row of rows) {
    const key = [row.op, row.axes.join(), row.type, starred(row.scope), row.isAsync].join("|");
    groups.set(key, [...(groups.get(key) ?? []), row]);
  }
  return [...groups.values()].map((group) => {
    const [first] = group;
    if (group.length === 1) return first;
    return {
      ...first,
      bytes: bytesIn(group),
      times: group.reduce((sum, { times }) => sum + times, 0),
      hiddenFlops: group.reduce((sum, { hiddenFlops }) => sum + hiddenFlops, 0),
      scope: starred(first.scope),
      why: merged(group.map(({ why }) => starred(why))),
    };
  });
}

/** The rows as a table, layers of one list together, most bytes first, then what goes over each axis (or axes together), and in all. */
export function formatExplanation(rows: readonly CollectiveRow[], mesh: Mesh): string {
  if (rows.length === 0) return `${mesh}: no communication\n`;
  const sorted = folded(rows).sort((a, b) => b.bytes - a.bytes);
  const anyAsync = rows.some(({ isAsync }) => isAsync);
  const lines = sorted.map(({ op, axes, bytes, times, isAsync, hiddenFlops, scope, type, why }) => [
    formatBytes(bytes),
    String(times),
    op,
    axes.join(" "),
    type,
    ...(anyAsync ? [isAsync ? scaled(hiddenFlops, "FLOP") : "-"] : []),
    scope || "-",
    why,
  ]);
  const head = [
    "bytes",
    "times",
    "op",
    "axes",
    "operand",
    ...(anyAsync ? ["hidden behind"] : []),
    "scope",
    "why",
  ];
  const byAxes = new Map<string, CollectiveRow[]>();
  for (const row of sorted) {
    const axes = row.axes.join(" ");
    byAxes.set(axes, [...(byAxes.get(axes) ?? []), row]);
  }
  const totals = [...byAxes]
    .sort(([, a], [, b]) => bytesIn(b) - bytesIn(a))
    .map(([axes, of]) => `${axes} ${formatBytes(bytesIn(of))}`);
  return `${[
    ...table([head, ...lines], new Set(anyAsync ? [0, 1, 5] : [0, 1])),
    "",
    `${mesh}: a device sends ${formatBytes(bytesIn(sorted))} a run: ${totals.join(", ")}`,
  ].join("\n")}\n`;
}
