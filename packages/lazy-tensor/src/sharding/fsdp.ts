import { type DType, isFloat } from "@lazuli/fx-trace";
import {
  axesIn,
  type Dims,
  localSize,
  type Mesh,
  replicated,
  ShardingError,
  sameDims,
} from "@lazuli/sharding";
import type { Module } from "../nn/module.js";
import type { Parameter } from "../nn/parameter.js";
import { checkedCommunication } from "../options.js";
import { engine } from "../runtime.js";
import { Tensor } from "../tensor.js";
import { constrain, layOut } from "./mark.js";
import { matchPaths } from "./patterns.js";

/** 1: optimizer state is divided; 2: gradients too; 3: parameters too. Rajbhandari et al. 2020. */
export type ZeroStage = 1 | 2 | 3;

export interface FullyShardOptions {
  /** What is divided. Default 3: everything. */
  readonly stage?: ZeroStage;
  /** Dtype that parameters are gathered and used in; they and their optimizer state stay as they are. As MixedPrecisionPolicy.param_dtype. */
  readonly mixedPrecision?: DType;
  /** Dtype that gradients are summed over the mesh in: `mixedPrecision`, or the parameter's own; else ShardingError. Default: `mixedPrecision`. */
  readonly gradReduceDtype?: DType;
  /** Mesh axis, or several, that parameters, gradients and optimizer state are divided over. Default `fsdp`. */
  readonly axis?: string | readonly string[];
  /** Paths of the modules whose parameters are gathered together, just before their forward. Default: those held in lists. */
  readonly wrap?: readonly string[];
  /** Gives the gathered parameters up after a module's forward and gathers them again in backward. Default true (ZeRO-3). */
  readonly reshardAfterForward?: boolean;
  /** Most bytes of a module's parameters, or of its gradients, that go over the mesh as one. Default 25 MB. Of all models on the mesh. */
  readonly bucketBytes?: number;
  /** Modules whose parameters are gathered while the one before them computes: so many more are there at once. Default 1. Of all models on the mesh. */
  readonly prefetch?: number;
}

/**
 * Divides every parameter, its gradient and its optimizer state over a mesh axis, and gathers each wrapped module's
 * parameters just before it runs. Call it before the optimizer is made; batches are to be divided over the same axis. On a
 * mesh with further data axes these hold copies (HSDP); parameters that are divided otherwise (tensor parallelism) stay so
 * besides. As torch.distributed.fsdp.fully_shard. Rajbhandari et al. 2020 (ZeRO), Zhao et al. 2023.
 */
export function fullyShard<M extends Module>(model: M, mesh: Mesh, options: FullyShardOptions = {}): M {
  const { axis = "fsdp" } = options;
  const named = (typeof axis === "string" ? [axis] : axis).map((name) => mesh.axis(name, "fullyShard"));
  const current = engine();
  const grid = current.useMesh(mesh);
  const axes = named.flatMap((position) => axesIn(mesh, grid)[position]);
  const { bucketBytes = current.communication.bucketBytes, prefetch = current.communication.prefetch } =
    options;
  current.communication = checkedCommunication("fullyShard", {
    ...current.communication,
    bucketBytes,
    prefetch,
  });
  const taken = new Set<Parameter>();
  for (const module of wrappedModules(model, options.wrap)) {
    const mine = module.parameters().filter((param) => !taken.has(param));
    for (const param of mine) taken.add(param);
    shardGroup(module, mine, grid, axes, options);
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

interface Group {
  readonly whole: Dims;
  readonly divided: Dims;
}

function shardGroup(
  module: Module,
  params: readonly Parameter[],
  mesh: Mesh,
  axes: readonly number[],
  options: FullyShardOptions,
): void {
  const { stage = 3, mixedPrecision, gradReduceDtype = mixedPrecision, reshardAfterForward = true } = options;
  const groups = new Map<Parameter, Group>();
  for (const param of params) {
    if (gradReduceDtype && gradReduceDtype !== mixedPrecision && gradReduceDtype !== param.dtype)
      throw new ShardingError(
        "fullyShard",
        `gradReduceDtype ${gradReduceDtype} is neither mixedPrecision, ${mixedPrecision ?? "which is not given"}, nor ${param.dtype}, that of ${param.name || "a parameter"}`,
      );
    const whole = param.layout ?? replicated(param.rank);
    const divided = dividedLayout(param, whole, mesh, axes);
    if (sameDims(divided, whole)) continue;
    groups.set(param, { whole, divided });
    param.stateLayout = divided;
    if (stage >= 2) param.gradLayout = divided;
    layOut(param, mesh, stage === 3 ? divided : whole);
  }
  if (groups.size === 0 || (stage < 3 && !mixedPrecision)) return;
  const direction = stage === 3 && reshardAfterForward ? "regather" : "forward";
  module.wrapForward((next) => {
    const stands = new Map<Tensor, Tensor["node"]>();
    for (const [param, { whole, divided }] of groups) {
      let value: Tensor = mixedPrecision && isFloat(param.dtype) ? param.to(mixedPrecision) : param;
      // A gradient laid out before it is cast back is summed in the narrow dtype.
      if (gradReduceDtype === value.dtype && value !== param)
        value = constrain(value, mesh, divided, "backward");
      stands.set(param, constrain(value, mesh, whole, direction).node);
    }
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
