import { type Dims, localSize, type Mesh, replicated, ShardingError, sameDims } from "@lazuli/sharding";
import type { Module } from "../nn/module.js";
import type { Parameter } from "../nn/parameter.js";
import { engine } from "../runtime.js";
import { Tensor } from "../tensor.js";
import { constrain, layOut } from "./mark.js";
import { matchPaths } from "./patterns.js";

export interface FullyShardOptions {
  /** Mesh axis, or several, that parameters, gradients and optimizer state are divided over. Default `fsdp`. */
  readonly axis?: string | readonly string[];
  /** Paths of the modules whose parameters are gathered together, just before their forward. Default: those held in lists. */
  readonly wrap?: readonly string[];
  /** Gives the gathered parameters up after a module's forward and gathers them again in backward. Default true (ZeRO-3). */
  readonly reshardAfterForward?: boolean;
}

/**
 * Divides every parameter, its gradient and its optimizer state over a mesh axis, and gathers each wrapped module's
 * parameters just before it runs. Call it before the optimizer is made; batches are to be divided over the same axis. On a
 * mesh with further data axes these hold copies (HSDP); parameters that are divided otherwise (tensor parallelism) stay so
 * besides. As torch.distributed.fsdp.fully_shard. Rajbhandari et al. 2020 (ZeRO), Zhao et al. 2023.
 */
export function fullyShard<M extends Module>(model: M, mesh: Mesh, options: FullyShardOptions = {}): M {
  const { axis = "fsdp", reshardAfterForward = true } = options;
  const axes = (typeof axis === "string" ? [axis] : axis).map((name) => mesh.axis(name, "fullyShard"));
  engine().useMesh(mesh);
  const wrapped = wrappedModules(model, options.wrap);
  const taken = new Set<Parameter>();
  for (const module of wrapped) {
    const mine = module.parameters().filter((param) => !taken.has(param));
    for (const param of mine) taken.add(param);
    shardGroup(module, mine, mesh, axes, reshardAfterForward);
  }
  return model;
}

/** Innermost first, the model itself last. */
function wrappedModules(model: Module, wrap: readonly string[] | undefined): Module[] {
  const entries = [...model.namedModules()];
  const inner = wrap
    ? [...matchPaths("fullyShard", wrap, entries).values()].flat().map(([, module]) => module)
    : entries.filter(([path]) => /(^|\.)\d+$/.test(path)).map(([, module]) => module);
  const order = new Map(entries.map(([, module], i) => [module, i]));
  const unique = [...new Set(inner)].filter((module) => module !== model);
  return [...unique.sort((a, b) => (order.get(b) ?? 0) - (order.get(a) ?? 0)), model];
}

function shardGroup(
  module: Module,
  params: readonly Parameter[],
  mesh: Mesh,
  axes: readonly number[],
  reshardAfterForward: boolean,
): void {
  const gathered = new Map<Parameter, Dims>();
  for (const param of params) {
    const before = param.layout ?? replicated(param.rank);
    const divided = dividedLayout(param, before, mesh, axes);
    if (sameDims(divided, before)) continue;
    gathered.set(param, before);
    layOut(param, mesh, divided);
  }
  if (gathered.size === 0) return;
  const direction = reshardAfterForward ? "regather" : "forward";
  module.wrapForward((next) => {
    const stands = new Map<Tensor, Tensor["node"]>();
    for (const [param, dims] of gathered) stands.set(param, constrain(param, mesh, dims, direction).node);
    return Tensor.showing(stands, next);
  });
}

/** The layout divided further along the first dim that divides evenly, else along the longest. A scalar stays whole. */
function dividedLayout(param: Parameter, dims: Dims, mesh: Mesh, axes: readonly number[]): Dims {
  if (axes.some((axis) => dims.some((list) => list.includes(axis))))
    throw new ShardingError("fullyShard", `${param.name || "a parameter"} is divided over that axis already`);
  if (param.rank === 0) return dims;
  const parts = mesh.sizeOf(axes);
  const sizes = param.shape.map((size, d) => localSize(mesh, size, dims[d]));
  const even = sizes.findIndex((size) => size % parts === 0);
  const dim = even >= 0 ? even : sizes.indexOf(Math.max(...sizes));
  return dims.map((list, d) => (d === dim ? [...list, ...axes] : list));
}
