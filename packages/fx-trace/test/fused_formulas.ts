// The fused ops written out over rows of numbers, from their definitions and apart from their decompositions.

export type Row = readonly number[];

const sum = (xs: Row): number => xs.reduce((total, x) => total + x, 0);
const mean = (xs: Row): number => sum(xs) / xs.length;

export const softmax = (x: Row): number[] => {
  const e = x.map(Math.exp);
  return e.map((value) => value / sum(e));
};
export const logSumExp = (x: Row): number => Math.log(sum(x.map(Math.exp)));
export const logSoftmax = (x: Row): number[] => x.map((value) => value - logSumExp(x));

export const rmsNorm = (x: Row, w: Row, eps: number): number[] =>
  x.map((value, i) => (value / Math.sqrt(mean(x.map((each) => each * each)) + eps)) * w[i]);

export function layerNorm(x: Row, w: Row, b: Row, eps: number): number[] {
  const centre = mean(x);
  const spread = Math.sqrt(mean(x.map((value) => (value - centre) ** 2)) + eps);
  return x.map((value, i) => ((value - centre) / spread) * w[i] + b[i]);
}

/** One position: the pairs are complex numbers, multiplied by cos + i sin. */
export function rope(x: Row, cos: Row, sin: Row, interleaved: boolean, inverse: boolean): number[] {
  const half = x.length / 2;
  const out = new Array<number>(x.length);
  for (let j = 0; j < half; j++) {
    const [real, imaginary] = interleaved ? [2 * j, 2 * j + 1] : [j, j + half];
    const s = inverse ? -sin[j] : sin[j];
    out[real] = x[real] * cos[j] - x[imaginary] * s;
    out[imaginary] = x[real] * s + x[imaginary] * cos[j];
  }
  return out;
}

export interface AttentionSizes {
  readonly B: number;
  readonly H: number;
  readonly G: number;
  readonly T: number;
  readonly S: number;
  readonly K: number;
  readonly Kv: number;
}

export function attention(
  sizes: AttentionSizes,
  [q, k, v]: readonly Row[],
  { causal, offset, scale, window }: { causal: boolean; offset: number; scale: number; window: number },
): { out: number[]; lse: number[] } {
  const { B, H, G, T, S, K, Kv } = sizes;
  const out: number[] = [];
  const lse: number[] = [];
  for (let b = 0; b < B; b++) {
    for (let h = 0; h < H; h++) {
      const g = Math.floor(h / (H / G));
      for (let i = 0; i < T; i++) {
        const seen = Array.from({ length: S }, (_, j) => j).filter(
          (j) => (!causal || j <= i + offset) && (window === 0 || j > i + offset - window),
        );
        const query = q.slice(((b * H + h) * T + i) * K).slice(0, K);
        const scores = seen.map(
          (j) => scale * sum(query.map((x, c) => x * k[((b * G + g) * S + j) * K + c])),
        );
        const weights = softmax(scores);
        for (let c = 0; c < Kv; c++)
          out.push(sum(seen.map((j, n) => weights[n] * v[((b * G + g) * S + j) * Kv + c])));
        lse.push(seen.length > 0 ? logSumExp(scores) : Number.NEGATIVE_INFINITY);
      }
    }
  }
  return { out, lse };
}

/** Cross entropy of one row against a target distribution. */
export function crossEntropy(logits: Row, target: number, ignoreIndex: number, smoothing: number): number {
  if (target === ignoreIndex) return 0;
  const classes = logits.length;
  const wanted = logits.map((_, j) => (j === target ? 1 - smoothing : 0) + smoothing / classes);
  return -sum(logSoftmax(logits).map((value, j) => (wanted[j] === 0 ? 0 : wanted[j] * value)));
}

export interface AdamWState {
  readonly p: number;
  readonly m: number;
  readonly v: number;
}

/** As in the paper, for one number. */
export function adamw(
  { p, m, v }: AdamWState,
  grad: number,
  lr: number,
  step: number,
  attrs: { beta1: number; beta2: number; eps: number; weight_decay: number; decoupled: boolean },
): AdamWState {
  const g = attrs.decoupled ? grad : grad + attrs.weight_decay * p;
  const m1 = attrs.beta1 * m + (1 - attrs.beta1) * g;
  const v1 = attrs.beta2 * v + (1 - attrs.beta2) * g * g;
  const mHat = m1 / (1 - attrs.beta1 ** step);
  const vHat = v1 / (1 - attrs.beta2 ** step);
  const decayed = attrs.decoupled ? p - lr * attrs.weight_decay * p : p;
  return { p: decayed - (lr * mHat) / (Math.sqrt(vHat) + attrs.eps), m: m1, v: v1 };
}
