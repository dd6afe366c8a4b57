import type { Node } from "@lazuli/fx-trace";
import type { Module } from "../nn/module.js";
import { Tensor } from "../tensor.js";
import type { Watcher } from "./watcher.js";

/** A module's fields as its forward found them; arrays by their elements. */
export interface Fields {
  readonly module: Module;
  readonly names: readonly string[];
  readonly values: readonly unknown[];
}

/** Collects what a function looks at while it is recorded. */
export class Observed implements Watcher {
  /** Tensors read, with the node that each had when it was first read. */
  readonly reads = new Map<Tensor, Node>();
  /** Tensors whose gradients were looked at, with the gradient that each had at first. */
  readonly grads = new Map<Tensor, Tensor | null>();
  readonly modules = new Map<Module, Fields>();
  uploads = 0;

  read(tensor: Tensor): void {
    if (!this.reads.has(tensor)) this.reads.set(tensor, Tensor.nodeOf(tensor));
  }

  grad(tensor: Tensor): void {
    if (!this.grads.has(tensor)) this.grads.set(tensor, Tensor.gradOf(tensor));
  }

  module(module: Module): void {
    if (!this.modules.has(module)) this.modules.set(module, fieldsOf(module));
  }

  upload(): void {
    this.uploads++;
  }
}

export function fieldsOf(module: Module): Fields {
  const names = Object.keys(module);
  const values = names.map((name) => {
    const value = (module as unknown as Record<string, unknown>)[name];
    return Array.isArray(value) ? [...value] : value;
  });
  return { module, names, values };
}

/** The first field that is no longer what it was, or null. */
export function changedField({ module, names, values }: Fields): string | null {
  const fields = module as unknown as Record<string, unknown>;
  for (let i = 0; i < names.length; i++) {
    const now = fields[names[i]];
    const then = values[i];
    if (now === then) continue;
    if (Array.isArray(then) && Array.isArray(now) && sameElements(then, now)) continue;
    if (Number.isNaN(then) && Number.isNaN(now)) continue;
    return names[i];
  }
  return null;
}

function sameElements(a: readonly unknown[], b: readonly unknown[]): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
