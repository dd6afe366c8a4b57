import type { Module } from "../nn/module.js";
import type { Tensor } from "../tensor.js";

/** What a function looks at while `compile` records it. */
export interface Watcher {
  /** A tensor's value is used; called before it is, every time. */
  read(tensor: Tensor): void;
  /** A tensor's gradient is looked at or set; called before it is, every time. */
  grad(tensor: Tensor): void;
  /** A module's forward begins. */
  module(module: Module): void;
  /** Data is copied to the device. */
  upload(): void;
}

/** The one that is told; null while nothing is being recorded for `compile`. */
export let watcher: Watcher | null = null;

export function watchedBy<T>(next: Watcher | null, fn: () => T): T {
  const previous = watcher;
  watcher = next;
  try {
    return fn();
  } finally {
    watcher = previous;
  }
}
