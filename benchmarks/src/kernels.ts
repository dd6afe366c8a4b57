import { arange, configure, F, randn, sync, type Tensor } from "@lazuli/lazy-tensor";
import { copyBandwidth, type Result, round, timeStep } from "./measure.js";

type FloatName = "float32" | "bfloat16" | "float16";

/** silu(x) * y + x over 16M float32, which should cost what moving its 192 MB costs. */
export async function fusionBenchmark(): Promise<Result> {
  const copy = await copyBandwidth();
  configure({});
  const size = 2 ** 24;
  const x = randn([size]);
  const y = randn([size]);
  await sync(x, y);
  const { wallMs, deviceMs } = await timeStep(() => [x.silu().mul(y).add(x)]);
  const bytes = 3 * 4 * size;
  const rate = (bytes / deviceMs) * 1000;
  return {
    elements: size,
    step_ms: round(wallMs),
    device_ms: round(deviceMs),
    gb_per_s: round(rate / 1e9, 1),
    copy_gb_per_s: round(copy / 1e9, 1),
    share_of_copy: round(rate / copy),
  };
}

/**
 * Kernels that memory bounds, GB/s by name: what they must read and write, each once, by their own time. `elements` of one
 * tensor, in rows of 4096; several times the caches, or these are what is measured.
 */
export async function bandwidthBenchmark({ elements }: { elements: number }): Promise<Result> {
  const columns = Math.min(4096, elements);
  const shape = [Math.floor(elements / columns), columns];
  const count = shape[0] * columns;
  const out: Result = { elements: count };
  for (const [dtype, bytes] of [["float32", 4] as const, ["bfloat16", 2] as const]) {
    configure({});
    const [x, y] = [1, 2].map(() => randn(shape).to(dtype));
    const [weight, bias] = [1, 2].map(() => randn([columns]).to(dtype));
    await sync(x, y, weight, bias);
    const leaf = x.requiresGrad_();
    const withGradient = (value: Tensor): Tensor[] => {
      value.backward(y);
      const { grad } = leaf;
      leaf.grad = null;
      return [value, grad as Tensor];
    };
    const plain = x.detach();
    // By kernel: tensors of that size that it reads and writes.
    const kernels: Record<string, [streams: number, record: () => Tensor[]]> = {
      elementwise: [3, () => [plain.silu().mul(y).add(plain)]],
      rms_norm: [2, () => [F.rmsNorm(plain, weight)]],
      layer_norm: [2, () => [F.layerNorm(plain, weight, bias)]],
      rms_norm_with_gradient: [5, () => withGradient(F.rmsNorm(leaf, weight))],
    };
    for (const [name, [streams, record]] of Object.entries(kernels)) {
      const { kernelMs } = await timeStep(record);
      out[`${name}_${dtype}`] = round((streams * count * bytes) / kernelMs / 1e6, 1);
    }
  }
  return out;
}

export interface AttentionShape {
  readonly batch: number;
  readonly heads: number;
  readonly seq: number;
  readonly headDim: number;
  readonly dtype: FloatName;
  /** Keys that a query sees, up to its own; all where not given. */
  readonly window?: number;
  readonly mask?: MaskName;
}

/**
 * Beside the causal mask: a quarter of the keys hidden as padding on the left is, bools [B, 1, 1, T]; a number by head and
 * key as ALiBi's, [H, 1, T]; one by head and pair, [H, T, T]; and that with its gradient.
 */
export const maskNames = ["padding", "alibi", "bias", "learned"] as const;
export type MaskName = (typeof maskNames)[number];

function maskOf(kind: MaskName, batch: number, heads: number, seq: number): Tensor {
  if (kind === "bias" || kind === "learned")
    return randn([heads, seq, seq]).requiresGrad_(kind === "learned");
  const key = arange(seq);
  if (kind === "padding")
    return key
      .ge(seq / 4)
      .reshape([1, 1, 1, seq])
      .broadcastTo([batch, 1, 1, seq]);
  const slope = arange(heads)
    .add(1)
    .mul((-8 * Math.LN2) / heads)
    .exp();
  return slope.reshape([heads, 1, 1]).mul(key);
}

/** Causal attention, forward and with its gradients. */
export async function attentionBenchmark({
  batch,
  heads,
  seq,
  headDim,
  dtype,
  window,
  mask,
}: AttentionShape): Promise<Result> {
  configure({});
  const shape = [batch, heads, seq, headDim];
  const values = [1, 2, 3, 4].map(() => randn(shape).to(dtype));
  const attnMask = mask && maskOf(mask, batch, heads, seq);
  await sync(...values, ...(attnMask ? [attnMask] : []));
  const [q, k, v] = values.slice(0, 3).map((value) => value.requiresGrad_());
  const g = values[3];
  const leaves = [q, k, v, ...(attnMask?.requiresGrad ? [attnMask] : [])];
  const attend = (): Tensor => F.scaledDotProductAttention(q, k, v, { causal: true, window, attnMask });
  const forward = await timeStep(() => [attend().detach()]);
  const both = await timeStep(() => {
    attend().backward(g);
    const grads = leaves.map(({ grad }) => grad as Tensor);
    for (const leaf of leaves) leaf.grad = null;
    return grads;
  });
  // Two products of T² K multiplications a head, half of them masked; the gradients take five.
  const seen = window === undefined || window > seq ? seq : window;
  const pairs = seen * (seq - seen / 2);
  const flops = 2 * 2 * batch * heads * pairs * headDim;
  return {
    shape,
    dtype,
    ...(mask ? { mask } : {}),
    forward_ms: round(forward.kernelMs, 3),
    forward_gflops: round(flops / forward.kernelMs / 1e6, 1),
    forward_backward_ms: round(both.kernelMs, 3),
    forward_backward_gflops: round((flops * 3.5) / both.kernelMs / 1e6, 1),
  };
}

const matmulShapes = [
  [512, 512, 512],
  [1024, 1024, 1024],
  [2048, 288, 288],
  [2048, 768, 288],
  [2048, 32000, 288],
] as const;

/** Products [M, K] x [K, N], GFLOP/s by `MxNxK`. */
export async function matmulBenchmark({ dtype }: { dtype: FloatName }): Promise<Result> {
  configure({});
  const out: Result = { dtype };
  for (const [m, n, k] of matmulShapes) {
    const a = randn([m, k]).to(dtype);
    const b = randn([k, n]).to(dtype);
    await sync(a, b);
    const { kernelMs } = await timeStep(() => [a.matmul(b)]);
    out[`${m}x${n}x${k}`] = round((2 * m * n * k) / kernelMs / 1e6, 1);
  }
  return out;
}
