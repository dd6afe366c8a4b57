import {
  replicated,
  ShardingError,
  shardingSvg as svgOf,
  visualizeSharding as textOf,
  type VisualizeOptions,
} from "@lazuli/sharding";
import { engine } from "../runtime.js";
import type { Tensor } from "../tensor.js";

function layoutOf(tensor: Tensor): Parameters<typeof svgOf> {
  const { mesh } = engine();
  if (!mesh) throw new ShardingError("visualizeSharding", "no tensor lies over a mesh: markSharding first");
  return [tensor.shape, mesh, tensor.presentLayout ?? replicated(tensor.rank)];
}

/** Which devices hold which part of a tensor, as a grid for the terminal. As jax.debug.visualize_array_sharding. */
export const visualizeSharding = (tensor: Tensor, options?: VisualizeOptions): string =>
  textOf(...layoutOf(tensor), options);

/** The same as an SVG. */
export const shardingSvg = (tensor: Tensor): string => svgOf(...layoutOf(tensor));
