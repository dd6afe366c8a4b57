import type { ExecutableInfo } from "@lazuli/cuda-backend";
import type { Node } from "@lazuli/fx-trace";
import { formatType } from "@lazuli/fx-trace";
import type { Place } from "./place_error.js";

/** One recorded node in a few words, for saying why a program was compiled again. */
export interface NodeSummary {
  readonly op: string;
  readonly type: string;
  readonly attrs: string;
  readonly scope: string;
}

export interface CachedProgram {
  readonly number: number;
  readonly words: Uint32Array;
  readonly executable: number;
  readonly info: ExecutableInfo;
  /** By node of the compiled graph, for errors the device reports by position. */
  readonly places: readonly Place[];
  /** Of the recorded graph. */
  readonly summary: readonly NodeSummary[];
}

export function summarize(nodes: readonly Node[]): NodeSummary[] {
  return nodes.map((node) => ({
    op: node.op.name,
    type: node.types.map(formatType).join(", "),
    attrs: Object.entries(node.attrs)
      .filter(([, value]) => !(value instanceof Uint8Array))
      .map(([key, value]) => `${key}=${value}`)
      .join(" "),
    scope: node.scope,
  }));
}

const at = (node: NodeSummary): string => (node.scope ? ` in ${node.scope}` : "");

/** The first difference between the program that ran last and the one that is to run, in words. */
export function explainMiss(previous: readonly NodeSummary[] | null, next: readonly NodeSummary[]): string {
  if (!previous) return "first program";
  const count = Math.min(previous.length, next.length);
  for (let i = 0; i < count; i++) {
    const a = previous[i];
    const b = next[i];
    if (a.op !== b.op) return `node ${i}${at(b)}: ${b.op} where the program before had ${a.op}${at(a)}`;
    if (a.type !== b.type) return `node ${i}, ${b.op}${at(b)}: result is ${b.type}, was ${a.type}`;
    if (a.attrs !== b.attrs) return `node ${i}, ${b.op}${at(b)}: attributes {${b.attrs}}, were {${a.attrs}}`;
  }
  if (previous.length !== next.length) {
    const longer = next.length > previous.length ? next : previous;
    const verb = next.length > previous.length ? "more" : "fewer";
    const extra = longer[count];
    return `${Math.abs(next.length - previous.length)} ${verb} nodes, from ${extra.op}${at(extra)} on`;
  }
  return "the same ops, on inputs or outputs that differ (shapes, donation, or which values are kept)";
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
