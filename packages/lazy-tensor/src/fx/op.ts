import {
  type Attrs,
  type AttrsOf,
  currentScope,
  enterScope,
  LazuliError,
  type Op,
  type OpDef,
  type OpName,
  type ops,
  opTable,
} from "@lazuli/fx-trace";
import type { Tensor } from "../tensor.js";
import { joinPath } from "./container.js";
import { callOp, type OpValue } from "./interpreter.js";

type SchemaAttrs<N extends OpName> = (typeof ops)[N] extends Op<infer S> ? AttrsOf<S> : never;
/** Random ops take the step's key and a stream of their own. */
type CallAttrs<N extends OpName> = "stream" extends keyof SchemaAttrs<N>
  ? Omit<SchemaAttrs<N>, "stream">
  : SchemaAttrs<N>;
type OpCall<N extends OpName> = keyof SchemaAttrs<N> extends never
  ? (...inputs: Tensor[]) => Tensor
  : (...inputsAndAttrs: [...Tensor[], CallAttrs<N>]) => Tensor;

/**
 * Every op of the table on tensors, `op.reshape(x, { shape: [2, 3] })`: what `GraphModule.code` is written in. Of an op of
 * several results only `op.result(y, { index: 0 })` can be taken.
 */
export const op = Object.fromEntries(opTable.map((def) => [def.name, callerOf(def)])) as unknown as {
  readonly [N in OpName]: OpCall<N>;
};

function callerOf(def: OpDef): (...args: unknown[]) => OpValue {
  const takesAttrs = Object.keys(def.attrSchema).length > 0;
  return (...args) => {
    const attrs = (takesAttrs ? args.at(-1) : {}) as Attrs;
    try {
      return callOp(def, (takesAttrs ? args.slice(0, -1) : args) as OpValue[], attrs);
    } catch (error) {
      throw error instanceof LazuliError ? error.place(currentScope()) : error;
    }
  };
}

/** Says in which module the calls that follow were made: `using at = fx.scopes(); at("blocks.0");`. */
export function scopes(): ((path: string) => void) & Disposable {
  const base = currentScope();
  const at = (path: string): void => enterScope(joinPath(base, path));
  return Object.assign(at, { [Symbol.dispose]: () => enterScope(base) });
}
