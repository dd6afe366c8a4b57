import { type DType, isFloat } from "./dtype.js";
import { LazuliError } from "./errors.js";
import type { Attrs, OpDef } from "./opdef.js";
import type { TensorType } from "./shape.js";

/** What one device has of a value, between full_to_shard and shard_to_full. */
export interface Part {
  /** The `mesh` attribute of the ops between. */
  readonly mesh: readonly number[];
  /** Mesh axes along which devices may have different values; along the others they have the same. */
  readonly varying: readonly number[];
}

const covers = (a: Part, b: Part): boolean => b.varying.every((axis) => a.varying.includes(axis));

/** The part that an op gives whose operands are both. */
function joinParts(a: Part, b: Part): Part {
  if (a === b || covers(a, b)) return a;
  if (covers(b, a)) return b;
  return { mesh: a.mesh, varying: [...new Set([...a.varying, ...b.varying])].sort((x, y) => x - y) };
}

/**
 * One recorded call. A node of several results is never consumed directly: a `result` node names which.
 */
export class Node {
  /** Rises with every node made in this process: inputs have smaller ids than their users. */
  readonly id: number;
  /** How many recorded nodes consume this one; a node nothing consumes is a sink. */
  useCount = 0;
  /** Whether any recorded node reads this one, be it counted as a use or not. */
  isRead = false;
  /** True where a gradient may flow through this node to a leaf. */
  requiresGrad = false;
  /** True for the node of a tensor whose `.grad` backward fills. */
  isLeaf = false;
  /** What holds the value once it is computed; owned by the engine above. */
  storage: unknown = null;
  /** Set where the value is a part, of the shape that one device has. */
  part: Part | null = null;
  /** The checkpoint it was recorded in: backward computes it again instead of keeping it. */
  region: Region | null = null;
  /** Position in the graph walked last, valid while `walk` is that walk's number (see `walkNodes`). */
  index = -1;
  walk = 0;

  constructor(
    readonly op: OpDef,
    public inputs: readonly Node[],
    readonly attrs: Attrs,
    /** One type per result. */
    readonly types: readonly TensorType[],
    /** Module path in which the call was made. */
    readonly scope: string,
  ) {
    this.id = nextId++;
  }

  get type(): TensorType {
    return this.types[0];
  }
  get shape(): readonly number[] {
    return this.types[0].shape;
  }
  get dtype(): TensorType["dtype"] {
    return this.types[0].dtype;
  }
}

/** What one `checkpoint` encloses. */
export interface Region {
  /** What was given to it. */
  readonly inputs: ReadonlySet<Node>;
}

let nextId = 1;

/** Takes every node as it is made: the pending lazy graph, or a graph a pass builds. */
export interface Recorder {
  add(node: Node): void;
}

let recorder: Recorder | null = null;
let scopePath = "";
let gradEnabled = true;
let countsUses = true;

export const currentRecorder = (): Recorder | null => recorder;
export const currentScope = (): string => scopePath;
export const isGradEnabled = (): boolean => gradEnabled;

/** Makes `next` the process's recorder; the engine calls it once. */
export function setRecorder(next: Recorder | null): void {
  recorder = next;
}

/** Runs `fn` with its nodes going to `next`. */
export function withRecorder<T>(next: Recorder | null, fn: () => T): T {
  const previous = recorder;
  recorder = next;
  try {
    return fn();
  } finally {
    recorder = previous;
  }
}

/** Runs `fn` with `name` appended to the module path that nodes and errors carry. */
export const withScope = <T>(name: string, fn: () => T): T =>
  atScope(scopePath && name ? `${scopePath}.${name}` : scopePath || name, fn);

/** Runs `fn` under the absolute module path `path`: for nodes that stand for another node's call. */
export function atScope<T>(path: string, fn: () => T): T {
  const previous = scopePath;
  scopePath = path;
  try {
    return fn();
  } catch (error) {
    throw error instanceof LazuliError ? error.place(path) : error;
  } finally {
    scopePath = previous;
  }
}

/** Makes `path` the module path from here on; the caller sets it back. */
export function enterScope(path: string): void {
  scopePath = path;
}

/** Runs `fn` with gradient recording on or off. */
export function withGrad<T>(enabled: boolean, fn: () => T): T {
  const previous = gradEnabled;
  gradEnabled = enabled;
  try {
    return fn();
  } finally {
    gradEnabled = previous;
  }
}

/** Runs `fn` without its nodes counting as users: what backward reads of the forward graph stays a sink. */
export function withoutUses<T>(fn: () => T): T {
  const previous = countsUses;
  countsUses = false;
  try {
    return fn();
  } finally {
    countsUses = previous;
  }
}

let region: Region | null = null;

/** Runs `fn`, which was given `inputs`, as a checkpoint: a part of the one around it, where there is one. */
export function withCheckpoint<T>(inputs: ReadonlySet<Node>, fn: () => T): T {
  if (region !== null) return fn();
  region = { inputs };
  try {
    return fn();
  } finally {
    region = null;
  }
}

/** Casts an op's operands before it is applied; gives them back where there is nothing to cast. */
export type Casts = (op: OpDef, inputs: readonly Node[]) => readonly Node[];

let mixed: { readonly dtype: DType; readonly casts: Casts } | null = null;

/** The dtype that products are recorded in, where that is not their operands'. */
export const autocastDType = (): DType | null => mixed?.dtype ?? null;

/** Runs `fn` with operands cast by `next`, or by nothing. */
export function withCasts<T>(next: { readonly dtype: DType; readonly casts: Casts } | null, fn: () => T): T {
  const previous = mixed;
  mixed = next;
  try {
    return fn();
  } finally {
    mixed = previous;
  }
}

/** Applies an op: checks types at the call, makes the node, records it. Throws what the type rule throws. */
export function apply(op: OpDef, given: readonly Node[], attrs: Attrs): Node {
  const inputs = mixed === null ? given : mixed.casts(op, given);
  const type = op.type(inputs, attrs as never);
  const types = Array.isArray(type) ? (type as readonly TensorType[]) : [type as TensorType];
  const node = new Node(op, inputs, attrs, types, scopePath);
  let requiresGrad = false;
  let part: Part | null = null;
  for (let i = 0; i < inputs.length; i++) {
    if (countsUses) inputs[i].useCount++;
    inputs[i].isRead = true;
    requiresGrad ||= inputs[i].requiresGrad;
    const other = inputs[i].part;
    if (other !== null) part = part === null ? other : joinParts(part, other);
  }
  node.part = op.part ? op.part(inputs, attrs as never) : part;
  node.requiresGrad = requiresGrad && gradEnabled && op.differentiable && isFloat(types[0].dtype);
  node.region = region;
  recorder?.add(node);
  return node;
}
