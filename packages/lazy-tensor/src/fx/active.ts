import type { Node, TensorType } from "@lazuli/fx-trace";
import type { Module } from "../nn/module.js";
import type { Tensor } from "../tensor.js";

/** What a trace is told while the traced function runs. */
export interface Trace {
  /** A tensor's present value is read, to be an operand. */
  read(tensor: Tensor, node: Node): void;
  /** A graph reads a tensor by its path. */
  attribute(tensor: Tensor): void;
  /** Something was asked for that a traced program cannot have. */
  refuse(op: string, what: string): never;
  /** A tensor was given another value in place; `restore` takes it back. */
  assigned(tensor: Tensor, before: Node, restore: () => void): void;
  /** Data was copied to the device. */
  uploaded(node: Node, type: TensorType, bytes: ArrayBufferView): void;
  nextRandom(): { key: Node; stream: number };
  /** A module's forward is called with `args`; `run` runs it. */
  callModule(module: Module, args: readonly unknown[], run: () => unknown): unknown;
}

/** The trace under way, or null. */
export let activeTrace: Trace | null = null;

export function withTrace<T>(trace: Trace, fn: () => T): T {
  const before = activeTrace;
  activeTrace = trace;
  try {
    return fn();
  } finally {
    activeTrace = before;
  }
}

/**
 * Runs `fn`, which a transform records into a graph of its own: where a trace is under way it is told of what is read, but
 * modules are no nodes of it there.
 */
export function insideTransform<T>(fn: () => T): T {
  const outer = activeTrace;
  if (outer === null) return fn();
  const inner: Trace = {
    read: (tensor, node) => outer.read(tensor, node),
    attribute: (tensor) => outer.attribute(tensor),
    refuse: (op, what) => outer.refuse(op, what),
    assigned: (tensor) =>
      outer.refuse("assign", `${tensor} is updated in place inside a function that is being transformed`),
    uploaded: (node, type, bytes) => outer.uploaded(node, type, bytes),
    nextRandom: () => outer.nextRandom(),
    callModule: (_module, _args, run) => run(),
  };
  return withTrace(inner, fn);
}
