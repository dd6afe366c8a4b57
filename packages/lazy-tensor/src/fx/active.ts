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
