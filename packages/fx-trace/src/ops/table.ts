import type { OpDef } from "../opdef.js";
import { adamw_update } from "./adamw.js";
import { attention } from "./attention.js";
import { attention_bias_grad, attention_grad } from "./attention_grad.js";
import * as binary from "./binary.js";
import { bindOps } from "./bound.js";
import * as collective from "./collective.js";
import { dot_general } from "./contraction.js";
import { cross_entropy, cross_entropy_grad } from "./cross_entropy.js";
import * as index from "./index.js";
import { barrier, constant, detach, input, result } from "./leaf.js";
import { linear_cross_entropy, linear_cross_entropy_grad } from "./linear_cross_entropy.js";
import { layer_norm, layer_norm_grad, rms_norm, rms_norm_grad } from "./norm.js";
import { bernoulli, random_normal, random_uniform } from "./random.js";
import * as reduction from "./reduction.js";
import { rope } from "./rope.js";
import { log_softmax, log_softmax_grad, softmax, softmax_grad } from "./softmax.js";
import { full, iota } from "./source.js";
import * as unary from "./unary.js";
import * as view from "./view.js";
import { where } from "./where.js";

/**
 * Every op, by name. The order is the wire's: an op's code is its position here. New ops go to the end of their family;
 * the native headers are generated from this table.
 */
export const ops = {
  // Leaves
  input,
  constant,
  result,
  detach,
  barrier,
  // Sources
  full,
  iota,
  random_uniform,
  random_normal,
  // Elementwise, one operand
  neg: unary.neg,
  abs: unary.abs,
  sign: unary.sign,
  exp: unary.exp,
  exp2: unary.exp2,
  expm1: unary.expm1,
  log: unary.log,
  log1p: unary.log1p,
  log2: unary.log2,
  sqrt: unary.sqrt,
  rsqrt: unary.rsqrt,
  sin: unary.sin,
  cos: unary.cos,
  tan: unary.tan,
  asin: unary.asin,
  acos: unary.acos,
  atan: unary.atan,
  sinh: unary.sinh,
  cosh: unary.cosh,
  tanh: unary.tanh,
  sigmoid: unary.sigmoid,
  erf: unary.erf,
  reciprocal: unary.reciprocal,
  square: unary.square,
  floor: unary.floor,
  ceil: unary.ceil,
  round: unary.round,
  trunc: unary.trunc,
  relu: unary.relu,
  silu: unary.silu,
  softplus: unary.softplus,
  gelu: unary.gelu,
  logical_not: unary.logical_not,
  isnan: unary.isnan,
  isinf: unary.isinf,
  isfinite: unary.isfinite,
  cast: unary.cast,
  // Elementwise, two operands or three
  add: binary.add,
  sub: binary.sub,
  mul: binary.mul,
  div: binary.div,
  pow: binary.pow,
  maximum: binary.maximum,
  minimum: binary.minimum,
  remainder: binary.remainder,
  floor_divide: binary.floor_divide,
  atan2: binary.atan2,
  eq: binary.eq,
  ne: binary.ne,
  lt: binary.lt,
  le: binary.le,
  gt: binary.gt,
  ge: binary.ge,
  logical_and: binary.logical_and,
  logical_or: binary.logical_or,
  logical_xor: binary.logical_xor,
  silu_grad: unary.silu_grad,
  gelu_grad: unary.gelu_grad,
  where,
  // Reductions
  sum: reduction.sum,
  prod: reduction.prod,
  max: reduction.max,
  min: reduction.min,
  argmax: reduction.argmax,
  argmin: reduction.argmin,
  cumsum: reduction.cumsum,
  // Contraction
  dot_general,
  // Views
  reshape: view.reshape,
  transpose: view.transpose,
  broadcast_to: view.broadcast_to,
  slice: view.slice,
  flip: view.flip,
  pad: view.pad,
  concat: view.concat,
  // Indexing and ordering
  index_select: index.index_select,
  index_add: index.index_add,
  gather: index.gather,
  scatter_add: index.scatter_add,
  sort: index.sort,
  topk: index.topk,
  // Fused kernels
  softmax,
  log_softmax,
  softmax_grad,
  log_softmax_grad,
  rms_norm,
  rms_norm_grad,
  layer_norm,
  layer_norm_grad,
  rope,
  attention,
  attention_grad,
  attention_bias_grad,
  cross_entropy,
  cross_entropy_grad,
  linear_cross_entropy,
  linear_cross_entropy_grad,
  adamw_update,
  // Composites
  mean: reduction.mean,
  logsumexp: reduction.logsumexp,
  bernoulli,
  // Over a mesh
  all_reduce: collective.all_reduce,
  all_gather: collective.all_gather,
  reduce_scatter: collective.reduce_scatter,
  all_to_all: collective.all_to_all,
  collective_permute: collective.collective_permute,
  shard_slice: collective.shard_slice,
  axis_index: collective.axis_index,
  sharding_constraint: collective.sharding_constraint,
  collective_done: collective.collective_done,
  full_to_shard: collective.full_to_shard,
  shard_to_full: collective.shard_to_full,
} as const;

export type OpName = keyof typeof ops;
/** A table with an entry for every op: one missing does not compile. */
export type OpTable<T> = Readonly<Record<OpName, T>>;

/** Every op, by code. */
export const opTable: readonly OpDef[] = Object.values(ops) as unknown as OpDef[];

opTable.forEach((op, code) => {
  op.code = code;
});
bindOps(ops);
