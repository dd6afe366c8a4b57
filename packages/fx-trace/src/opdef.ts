import type { DType } from "./dtype.js";
import { apply, type Node, type Part } from "./node.js";
import type { TensorType } from "./shape.js";

/** What an attribute may be; the kind decides how it goes into keys, dumps and onto the wire. */
export type AttrKind = "int" | "float" | "bool" | "ints" | "dtype" | "bytes" | readonly string[];
export type AttrSchema = Readonly<Record<string, AttrKind>>;
export type AttrValue = number | boolean | string | readonly number[] | Uint8Array;
export type Attrs = Readonly<Record<string, AttrValue>>;

type AttrOf<K> = K extends "int" | "float"
  ? number
  : K extends "bool"
    ? boolean
    : K extends "ints"
      ? readonly number[]
      : K extends "dtype"
        ? DType
        : K extends "bytes"
          ? Uint8Array
          : K extends readonly (infer E)[]
            ? E
            : never;
export type AttrsOf<S extends AttrSchema> = { readonly [N in keyof S]: AttrOf<S[N]> };

/**
 * How a device computes the op.
 * - `elementwise`: one scalar body per output element; fuses with its neighbours
 * - `source`: no tensor data in (full, iota, random); fuses like elementwise
 * - `reduction`, `view`, `contraction`: families the fuser knows
 * - `kernel`: a library kernel of its own
 * - `composite`: never reaches a device; `decompose` replaces it first
 * - `leaf`: a value that comes from outside (input, constant) or is only a name (result, detach)
 */
export type Lowering =
  | "elementwise"
  | "source"
  | "reduction"
  | "view"
  | "contraction"
  | "kernel"
  | "composite"
  | "leaf";

export interface VjpArgs<A> {
  readonly inputs: readonly Node[];
  /** The node itself. */
  readonly out: Node;
  /** Cotangent of the (first) result. */
  readonly grad: Node;
  /** Cotangents by result for ops of several results; null where nothing flows. */
  readonly grads: readonly (Node | null)[];
  readonly attrs: A;
  /** For each input, whether its cotangent is asked for. */
  readonly needs: readonly boolean[];
}

/** A cotangent per input; null where none flows (integer inputs, or not needed). */
export type Cotangents = readonly (Node | null)[];

/** Factors of each operand and result, einsum-like, as in Shardy; read by the sharding package. */
export interface ShardingRule {
  /** e.g. `"... m k, ... k n -> ... m n"`; `_` is a dim that stays whole, `(a b)` one of several factors, outermost first. */
  readonly factors: string;
  /** Factors summed over: sharding one gives partial sums. */
  readonly reduce?: readonly string[];
  /** Factors that must be whole on every device. */
  readonly replicate?: readonly string[];
}

export interface OpDef<S extends AttrSchema = AttrSchema> {
  readonly name: string;
  readonly attrSchema: S;
  /** Position in the op table: the opcode in keys and on the wire. Set by the table. */
  code: number;
  /** Number of tensor inputs: exact, or [least, most]. */
  readonly arity: number | readonly [number, number];
  /** Number of results. */
  readonly results: number;
  readonly lower: Lowering;
  readonly differentiable: boolean;
  /** Never folded, never merged with an equal one: draws random numbers, or is wanted where it stands (collectives). */
  readonly unique: boolean;
  /** Result type(s) from the inputs; throws ShapeError / DTypeError / ValueError at the call. */
  readonly type: (inputs: readonly Node[], attrs: AttrsOf<S>) => TensorType | readonly TensorType[];
  readonly vjp?: (args: VjpArgs<AttrsOf<S>>) => Cotangents;
  /** The same computation in smaller ops; one node per result. Serves vjp, and devices without the kernel. */
  readonly decompose?: (inputs: readonly Node[], attrs: AttrsOf<S>, out: Node) => readonly Node[];
  /** A function where it depends on ranks or attributes. */
  readonly sharding?: ShardingRule | ((inputs: readonly Node[], attrs: AttrsOf<S>) => ShardingRule);
  /** Whether the result is a part, and over which axes it differs; where not as its operands together. */
  readonly part?: (inputs: readonly Node[], attrs: AttrsOf<S>) => Part | null;
}

export interface OpSpec<S extends AttrSchema>
  extends Omit<OpDef<S>, "attrSchema" | "code" | "results" | "differentiable" | "unique"> {
  readonly attrs: S;
  readonly results?: number;
  /** Defaults to whether there is a vjp or a decompose. */
  readonly differentiable?: boolean;
  readonly unique?: boolean;
}

/** An op that can be called: `sum([x], attrs)` records a node. Ops without attributes are called without. */
export type Op<S extends AttrSchema = AttrSchema> = OpDef<S> &
  ((
    inputs: readonly Node[],
    ...attrs: keyof S extends never ? [attrs?: AttrsOf<S>] : [attrs: AttrsOf<S>]
  ) => Node);

const noAttrs: Attrs = Object.freeze({});

/** Defines an op. The returned value is the definition and, called, records a node in the current recorder. */
export function defineOp<const S extends AttrSchema>(spec: OpSpec<S>): Op<S> {
  const { name } = spec;
  // Named by a computed key, and every field assigned in one order: redefining `name` would put the function in
  // V8's dictionary mode, where each field read while recording costs several times more.
  const call = {
    [name]: (inputs: readonly Node[], values: Attrs = noAttrs): Node =>
      apply(def as unknown as OpDef, inputs, values),
  }[name];
  const def = Object.assign(call, {
    attrSchema: spec.attrs,
    code: -1,
    arity: spec.arity,
    results: spec.results ?? 1,
    lower: spec.lower,
    differentiable: spec.differentiable ?? (spec.vjp !== undefined || spec.decompose !== undefined),
    unique: spec.unique ?? false,
    type: spec.type,
    vjp: spec.vjp,
    decompose: spec.decompose,
    sharding: spec.sharding,
    part: spec.part,
  });
  return def as unknown as Op<S>;
}
