import {
  autocastDType,
  type DType,
  formatType,
  isGradEnabled,
  type Node,
  sameShape,
  type TensorType,
} from "@lazuli/fx-trace";
import { type Dims, type Mesh, replicated, sameDims } from "@lazuli/sharding";
import type { DeviceBuffer } from "../buffer.js";
import type { Engine } from "../engine.js";
import { Module } from "../nn/module.js";
import type { Communication } from "../options.js";
import { Tensor } from "../tensor.js";
import { type Call, restDiffers } from "./call.js";
import { changedField, type Fields } from "./observed.js";

/** How a tensor was when a program that reads it was recorded. */
export interface Expected {
  readonly type: TensorType;
  /** How the value lies over the mesh. */
  readonly layout: Dims | null;
  readonly requiresGrad: boolean;
}

export function expectedOf(node: Node): Expected {
  return {
    type: node.type,
    layout: (node.storage as DeviceBuffer | null)?.layout ?? null,
    requiresGrad: node.requiresGrad,
  };
}

export const sameLayout = (a: Dims | null, b: Dims | null, rank: number): boolean =>
  a === b || sameDims(a ?? replicated(rank), b ?? replicated(rank));

/** What is not as expected, in words. With `anySizes` dims may have other sizes, but not be more or fewer. */
export function differs(
  node: Node,
  { type, layout, requiresGrad }: Expected,
  anySizes = false,
): string | null {
  const now = node.type;
  const fits = anySizes ? now.shape.length === type.shape.length : sameShape(now.shape, type.shape);
  if (now !== type && (now.dtype !== type.dtype || !fits))
    return `is ${formatType(now)}, was ${formatType(type)}`;
  if (node.requiresGrad !== requiresGrad)
    return node.requiresGrad ? "requires gradients, did not" : "does not require gradients, did";
  const buffer = node.storage as DeviceBuffer | null;
  if (buffer === null) return "is not computed yet";
  if (buffer.state !== "live") return "is gone: it was disposed or overwritten";
  if (buffer.isOutdated || !sameLayout(buffer.layout, layout, type.shape.length))
    return "lies over the mesh in another way";
  return null;
}

/** What the program depends on besides tensors. */
export interface Surroundings {
  readonly engine: Engine;
  readonly mesh: Mesh | null;
  readonly contextParallel: string;
  readonly communication: Communication;
  readonly grad: boolean;
  readonly autocast: DType | null;
  readonly hooks: number;
}

export const surroundings = (engine: Engine): Surroundings => ({
  engine,
  mesh: engine.mesh,
  contextParallel: engine.contextParallel,
  communication: engine.communication,
  grad: isGradEnabled(),
  autocast: autocastDType(),
  hooks: Module.hookChanges,
});

export function surroundingsDiffer(then: Surroundings, engine: Engine): string | null {
  if (engine !== then.engine) return "another engine is active";
  if (engine.mesh !== then.mesh) return "another mesh is in use";
  if (engine.contextParallel !== then.contextParallel) return "contextParallel was changed";
  if (engine.communication !== then.communication) return "overlap, bucketBytes or prefetch was changed";
  if (isGradEnabled() !== then.grad) return `gradients are ${then.grad ? "off, were on" : "on, were off"}`;
  if (autocastDType() !== then.autocast)
    return `autocast is ${autocastDType() ?? "off"}, was ${then.autocast ?? "off"}`;
  if (Module.hookChanges !== then.hooks) return "a module got or lost a hook";
  return null;
}

/** Tensors given as arguments. `aliases`: by argument the first that is the same value; `state`: those that are state. */
export interface ArgGuard {
  readonly rest: readonly unknown[];
  readonly expected: readonly Expected[];
  readonly aliases: readonly number[];
  readonly state: readonly (Tensor | null)[];
}

export function argGuard({ tensors, rest }: Call): ArgGuard {
  const values = tensors.map(Tensor.nodeOf);
  return {
    rest,
    expected: values.map(expectedOf),
    aliases: values.map((node) => values.indexOf(node)),
    state: tensors.map((tensor) => (tensor.isState ? tensor : null)),
  };
}

export function argsDiffer(guard: ArgGuard, { tensors, rest }: Call, anySizes: boolean): string | null {
  const other = restDiffers(guard.rest, rest);
  if (other) return other;
  for (let i = 0; i < tensors.length; i++) {
    const tensor = tensors[i];
    if (guard.state[i] !== (tensor.isState ? tensor : null)) return `tensor argument ${i} is other state`;
    const node = Tensor.nodeOf(tensor);
    const what = differs(node, guard.expected[i], anySizes);
    if (what) return `tensor argument ${i} ${what}`;
    let first = 0;
    while (Tensor.nodeOf(tensors[first]) !== node) first++;
    if (first !== guard.aliases[i])
      return `tensor argument ${i} is ${first < i ? `the same as ${first}` : "not the same as another"}, as it was not`;
  }
  return null;
}

export function modulesDiffer(modules: readonly Fields[]): string | null {
  for (let i = 0; i < modules.length; i++) {
    const field = changedField(modules[i]);
    if (field !== null) return `${modules[i].module.constructor.name}.${field} was changed`;
  }
  return null;
}
