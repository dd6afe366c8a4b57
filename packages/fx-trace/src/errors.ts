/** Base of every error Lazuli throws for what a user wrote. The message reads `[op] what, both values, where`. */
export class LazuliError extends Error {
  /** Module path the call was made in, e.g. `blocks.3.attn`; empty outside any module. */
  scope = "";

  constructor(
    /** The op or function that refused, e.g. `matmul`. */
    readonly op: string,
    /** What is wrong, with the values that disagree. */
    readonly detail: string,
    scope = "",
    options?: ErrorOptions,
  ) {
    super(`[${op}] ${detail}`, options);
    this.name = new.target.name;
    this.place(scope);
  }

  /** Says where, unless that is known already. The stack stays that of the call. */
  place(scope: string): this {
    if (this.scope || !scope) return this;
    const before = this.message;
    this.scope = scope;
    this.message = `${before} (in ${scope})`;
    this.stack = this.stack?.replace(before, () => this.message);
    return this;
  }
}

/** Shapes that do not fit the op. Thrown at the call. */
export class ShapeError extends LazuliError {}
/** A dtype the op does not take. Thrown at the call. */
export class DTypeError extends LazuliError {}
/** An attribute or argument out of its range. Thrown at the call. */
export class ValueError extends LazuliError {}
/** A gradient that cannot be computed. */
export class GradError extends LazuliError {}
/** A graph that breaks an invariant; a bug in a pass, named by the verifier. */
export class GraphError extends LazuliError {}

/** Where an op stands. */
export interface OpPlace {
  readonly op: string;
  /** Module path, empty outside any. */
  readonly scope: string;
}

/** Ops that an export format has no counterpart of. */
export class UnsupportedOpError extends LazuliError {
  /** Every op that cannot be written, once by op and scope. */
  readonly places: readonly OpPlace[];

  constructor(
    op: string,
    format: string,
    nodes: readonly { readonly op: { readonly name: string }; readonly scope: string }[],
  ) {
    const unique = new Map(nodes.map((node) => [`${node.op.name} ${node.scope}`, node]));
    const places = [...unique.values()].map((node) => ({ op: node.op.name, scope: node.scope }));
    const list = places.map((place) => (place.scope ? `${place.op} in ${place.scope}` : place.op));
    super(op, `${format} has no ${list.join(", ")}`);
    this.places = places;
  }
}
/** A program that cannot be traced, or a traced one run on what it was not traced for. Says where in the user's source. */
export class TraceError extends LazuliError {
  constructor(
    op: string,
    detail: string,
    scope = "",
    /** `file:line:column` of the user's call, where it is known. */
    readonly source: string | null = null,
    options?: ErrorOptions,
  ) {
    super(op, source ? `${detail}, at ${source}` : detail, scope, options);
  }
}
/** A call that does not fit what was traced or compiled, where that may not be done anew; names the guard that failed. */
export class GuardError extends TraceError {}
