import type { ExecutableInfo } from "@lazuli/cuda-backend";
import type { Graph, Node } from "@lazuli/fx-trace";
import { formatType } from "@lazuli/fx-trace";
import type { Dims } from "@lazuli/sharding";
import type { Place } from "./place_error.js";

/** One recorded node in a few words, for saying why a program was compiled again. */
export interface NodeSummary {
  readonly op: string;
  readonly type: string;
  readonly attrs: string;
  readonly scope: string;
  /** By operand: what it is, as "node 4" or "input 2". */
  readonly operands: readonly string[];
}

export interface CachedProgram {
  readonly number: number;
  readonly words: Uint32Array;
  readonly executable: number;
  readonly info: ExecutableInfo;
  /** By node of the compiled graph, for errors the device reports by position. */
  readonly places: readonly Place[];
  /** Of the recorded graph. */
  readonly summary: ProgramSummary;
  /** Nodes that compute a value again, to stay within a memory budget. */
  readonly recomputed: number;
  /** On a mesh, how each output lies over it. */
  readonly outputLayouts: readonly Dims[] | null;
  /** On a mesh, the program of one device. */
  readonly graph: Graph | null;
}

/** A recorded program in a few words. */
export interface ProgramSummary {
  readonly nodes: readonly NodeSummary[];
  /** By input: its type, and whether its memory is taken over. */
  readonly inputs: readonly { readonly type: string; readonly donated: boolean; readonly user: string }[];
  /** Positions in `nodes` of the values that are kept. */
  readonly kept: readonly number[];
}

export function summarize(
  nodes: readonly Node[],
  roots: readonly Node[],
  inputs: readonly Node[],
  isDonated: (input: Node) => boolean,
): ProgramSummary {
  const positions = new Map(nodes.map((node, i) => [node, i]));
  const names = new Map(nodes.map((node, i) => [node, `node ${i}`]));
  for (const [i, node] of inputs.entries()) names.set(node, `input ${i}`);
  const users = new Map<Node, Node>();
  for (const node of nodes)
    for (const operand of node.inputs) if (!users.has(operand)) users.set(operand, node);
  return {
    nodes: nodes.map((node) => ({
      op: node.op.name,
      type: node.types.map(formatType).join(", "),
      attrs: Object.entries(node.attrs)
        .filter(([, value]) => !(value instanceof Uint8Array))
        .map(([key, value]) => `${key}=${value}`)
        .join(" "),
      scope: node.scope,
      operands: node.inputs.map((operand) => names.get(operand) as string),
    })),
    inputs: inputs.map((node) => {
      const user = users.get(node);
      return {
        type: formatType(node.type),
        donated: isDonated(node),
        user: user ? ` (read by ${user.op.name}${user.scope ? ` in ${user.scope}` : ""})` : "",
      };
    }),
    kept: roots.map((root) => positions.get(root) ?? -1),
  };
}

const at = (node: NodeSummary): string => (node.scope ? ` in ${node.scope}` : "");

/** The first difference between the program that ran last and the one that is to run, in words. */
export function explainMiss(previous: ProgramSummary | null, next: ProgramSummary): string {
  if (!previous) return "first program";
  return firstDifference(previous, next) ?? "the same values, kept in another order or laid out otherwise";
}

/** The first difference in words, as `next` has it and `previous`, called `before`, had; null where there is none. */
export function firstDifference(
  previous: ProgramSummary,
  next: ProgramSummary,
  before = "the program before",
): string | null {
  return explainNodes(previous.nodes, next.nodes, before) ?? explainEnds(previous, next);
}

function explainNodes(
  previous: readonly NodeSummary[],
  next: readonly NodeSummary[],
  before: string,
): string | null {
  const count = Math.min(previous.length, next.length);
  for (let i = 0; i < count; i++) {
    const a = previous[i];
    const b = next[i];
    if (a.op !== b.op) return `node ${i}${at(b)}: ${b.op} where ${before} had ${a.op}${at(a)}`;
    if (a.type !== b.type) return `node ${i}, ${b.op}${at(b)}: result is ${b.type}, was ${a.type}`;
    if (a.attrs !== b.attrs) return `node ${i}, ${b.op}${at(b)}: attributes {${b.attrs}}, were {${a.attrs}}`;
  }
  if (previous.length === next.length) return null;
  const longer = next.length > previous.length ? next : previous;
  const verb = next.length > previous.length ? "more" : "fewer";
  const extra = longer[count];
  return `${Math.abs(next.length - previous.length)} ${verb} nodes, from ${extra.op}${at(extra)} on`;
}

function explainEnds(previous: ProgramSummary, next: ProgramSummary): string | null {
  const where = (position: number): string => {
    const node = next.nodes[position];
    return node ? `node ${position}, ${node.op}${at(node)}` : "an input";
  };
  const before = new Set(previous.kept);
  const after = new Set(next.kept);
  for (const position of after)
    if (!before.has(position)) return `the value of ${where(position)} is kept, was not`;
  for (const position of before)
    if (!after.has(position)) return `the value of ${where(position)} is not kept, was`;
  if (previous.inputs.length !== next.inputs.length)
    return `it reads ${next.inputs.length} values from before the step, was ${previous.inputs.length}`;
  for (const [i, b] of next.inputs.entries()) {
    const a = previous.inputs[i];
    if (a.type !== b.type) return `input ${i}${b.user} is ${b.type}, was ${a.type}`;
    if (a.donated !== b.donated)
      return `the memory of input ${i}, ${b.type}${b.user}, is ${b.donated ? "" : "not "}taken over by its new value, ${b.donated ? "was not" : "was"}`;
  }
  for (const [i, b] of next.nodes.entries()) {
    const a = previous.nodes[i];
    const k = b.operands.findIndex((operand, index) => operand !== a.operands[index]);
    if (k >= 0) return `node ${i}, ${b.op}${at(b)}: operand ${k} is ${b.operands[k]}, was ${a.operands[k]}`;
  }
  return null;
}

function sameWords(a: Uint32Array, b: Uint32Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/**
 * Compiled programs by the words they were recorded as: looked up by hash, then compared exactly, so that two programs
 * of one hash are never confused. Beyond `capacity` the one used longest ago is released.
 */
export class ProgramCache {
  private readonly byHash = new Map<number, CachedProgram[]>();
  /** Programs in the order they were used, the latest last. */
  private readonly used = new Map<CachedProgram, number>();
  last: CachedProgram | null = null;

  constructor(
    private readonly capacity: number,
    private readonly release: (program: CachedProgram) => void,
  ) {}

  find(hash: number, words: Uint32Array): CachedProgram | null {
    for (const program of this.byHash.get(hash) ?? []) {
      if (sameWords(program.words, words)) {
        this.touch(program, hash);
        return program;
      }
    }
    return null;
  }

  add(hash: number, program: CachedProgram): void {
    const bucket = this.byHash.get(hash);
    if (bucket) bucket.push(program);
    else this.byHash.set(hash, [program]);
    this.touch(program, hash);
    if (this.used.size > this.capacity) this.evictOldest();
  }

  /** Marks a program as used; false where it has been let go. */
  use(program: CachedProgram): boolean {
    const hash = this.used.get(program);
    if (hash === undefined) return false;
    this.touch(program, hash);
    return true;
  }

  get size(): number {
    return this.used.size;
  }

  private touch(program: CachedProgram, hash: number): void {
    this.last = program;
    this.used.delete(program);
    this.used.set(program, hash);
  }

  private evictOldest(): void {
    const [oldest, hash] = this.used.entries().next().value as [CachedProgram, number];
    this.used.delete(oldest);
    const bucket = (this.byHash.get(hash) as CachedProgram[]).filter((program) => program !== oldest);
    if (bucket.length > 0) this.byHash.set(hash, bucket);
    else this.byHash.delete(hash);
    this.release(oldest);
  }
}
