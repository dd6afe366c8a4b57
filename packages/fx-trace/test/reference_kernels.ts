import { type Shape, sizeOf, type TensorType } from "../src/shape.js";
import { drawWords } from "./philox.js";
import type { Data, Value } from "./reference.js";
import { readElements } from "./reference_bytes.js";
import { geluScalars, type Scalar, scalars, stored } from "./reference_elementwise.js";

// biome-ignore lint/suspicious/noExplicitAny: attributes differ from op to op
type Kernel = (operands: readonly Value[], types: readonly TensorType[], attrs: any) => Data[];

function stridesOf(shape: Shape): number[] {
  const strides = new Array<number>(shape.length);
  let stride = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = stride;
    stride *= shape[i];
  }
  return strides;
}

/** Calls `fn` with each index of `shape` in row-major order, and its position. */
function forEachIndex(shape: Shape, fn: (index: readonly number[], at: number) => void): void {
  const index = shape.map(() => 0);
  const size = sizeOf(shape);
  for (let at = 0; at < size; at++) {
    fn(index, at);
    for (let d = shape.length - 1; d >= 0; d--) {
      if (++index[d] < shape[d]) break;
      index[d] = 0;
    }
  }
}

function at(strides: readonly number[], index: readonly number[]): number {
  let sum = 0;
  for (let d = 0; d < index.length; d++) sum += index[d] * strides[d];
  return sum;
}

/** Reads `value` at an index of `shape`, which it is broadcast to. */
function broadcastReader(value: Value, shape: Shape): (index: readonly number[]) => number {
  const own = stridesOf(value.shape).map((stride, d) => (value.shape[d] === 1 ? 0 : stride));
  const strides = [...new Array<number>(shape.length - value.shape.length).fill(0), ...own];
  return (index) => value.data[at(strides, index)];
}

function gathered(type: TensorType, element: (index: readonly number[], at: number) => number): Float64Array {
  const out = new Float64Array(sizeOf(type.shape));
  forEachIndex(type.shape, (index, i) => {
    out[i] = stored(type.dtype, element(index, i));
  });
  return out;
}

const elementwise =
  (fn: Scalar): Kernel =>
  ([a, b], [type]) => {
    const x = broadcastReader(a, type.shape);
    const y = b ? broadcastReader(b, type.shape) : () => 0;
    return [gathered(type, (index) => fn(x(index), y(index), a.dtype))];
  };

function reduce(start: number, step: (sum: number, x: number) => number): Kernel {
  return ([x], [type], { dims, keepdim }) => {
    const out = new Float64Array(sizeOf(type.shape)).fill(start);
    const strides = stridesOf(type.shape);
    forEachIndex(x.shape, (index, i) => {
      const kept = keepdim
        ? index.map((each, d) => (dims.includes(d) ? 0 : each))
        : index.filter((_, d) => !dims.includes(d));
      const to = at(strides, kept);
      out[to] = step(out[to], x.data[i]);
    });
    return [out.map((value) => stored(type.dtype, value))];
  };
}

const larger = (best: number, x: number): number => (Number.isNaN(best) || x <= best ? best : x);
const smaller = (best: number, x: number): number => (Number.isNaN(best) || x >= best ? best : x);

/** Calls `fn` with the positions along `dim` of each line of `shape`. */
function forEachLine(shape: Shape, dim: number, fn: (positions: number[], line: number) => void): void {
  const strides = stridesOf(shape);
  const lines = shape.map((size, d) => (d === dim ? 1 : size));
  forEachIndex(lines, (index, line) => {
    const start = at(strides, index);
    fn(
      Array.from({ length: shape[dim] }, (_, i) => start + i * strides[dim]),
      line,
    );
  });
}

/** Ascending, NaN last, ties by position; `sign` -1 descends. */
const ordered = (data: Float64Array, positions: readonly number[], sign: number): number[] =>
  positions
    .map((_, i) => i)
    .sort((i, j) => {
      const a = data[positions[i]];
      const b = data[positions[j]];
      const nan = Number(Number.isNaN(a)) - Number(Number.isNaN(b));
      return (nan !== 0 ? nan : a < b ? -1 : a > b ? 1 : 0) * sign || i - j;
    });

const extremeIndex =
  (sign: number): Kernel =>
  ([x], [type], { dim }) => {
    const out = new Float64Array(sizeOf(type.shape));
    forEachLine(x.shape, dim, (positions, line) => {
      const nan = positions.findIndex((p) => Number.isNaN(x.data[p]));
      out[line] = nan >= 0 ? nan : ordered(x.data, positions, sign)[0];
    });
    return [out];
  };

function takeOrdered(
  [x]: readonly Value[],
  [type]: readonly TensorType[],
  dim: number,
  sign: number,
): Data[] {
  const values = new Float64Array(sizeOf(type.shape));
  const indices = new Float64Array(sizeOf(type.shape));
  const taken: number[][] = [];
  forEachLine(x.shape, dim, (positions) => {
    taken.push(ordered(x.data, positions, sign).flatMap((i) => [i, x.data[positions[i]]]));
  });
  forEachLine(type.shape, dim, (positions, line) => {
    positions.forEach((p, i) => {
      indices[p] = taken[line][2 * i];
      values[p] = taken[line][2 * i + 1];
    });
  });
  return [values, indices];
}

const dotGeneral: Kernel = ([a, b], [type], { lhs_contract, rhs_contract, lhs_batch, rhs_batch }) => {
  const free = (x: Value, contract: number[], batch: number[]): number[] =>
    x.shape.map((_, d) => d).filter((d) => !contract.includes(d) && !batch.includes(d));
  const freeA = free(a, lhs_contract, lhs_batch);
  const freeB = free(b, rhs_contract, rhs_batch);
  const contracted = lhs_contract.map((d: number) => a.shape[d]);
  const [sa, sb] = [stridesOf(a.shape), stridesOf(b.shape)];
  const insideA: number[] = [];
  const insideB: number[] = [];
  forEachIndex(contracted, (inner) => {
    insideA.push(inner.reduce((sum, i, k) => sum + i * sa[lhs_contract[k]], 0));
    insideB.push(inner.reduce((sum, i, k) => sum + i * sb[rhs_contract[k]], 0));
  });
  return [
    gathered(type, (index) => {
      let startA = 0;
      let startB = 0;
      let place = 0;
      for (let k = 0; k < lhs_batch.length; k++) {
        startA += sa[lhs_batch[k]] * index[place];
        startB += sb[rhs_batch[k]] * index[place++];
      }
      for (const d of freeA) startA += sa[d] * index[place++];
      for (const d of freeB) startB += sb[d] * index[place++];
      let sum = 0;
      for (let i = 0; i < insideA.length; i++)
        sum += a.data[startA + insideA[i]] * b.data[startB + insideB[i]];
      return sum;
    }),
  ];
};

function checkedIndex(value: number, size: number): number {
  if (value < 0 || value >= size) throw new Error(`index ${value} is out of range for ${size}`);
  return value;
}

/** The index in x that element `index` of index_select's result is read from. */
function selectedIndex(x: Value, chosen: Value, dim: number, index: readonly number[]): number[] {
  const rank = chosen.shape.length;
  const row = chosen.data[at(stridesOf(chosen.shape), index.slice(dim, dim + rank))];
  return [...index.slice(0, dim), checkedIndex(row, x.shape[dim]), ...index.slice(dim + rank)];
}

const gatheredIndex = (x: Value, chosen: Value, dim: number, index: readonly number[], i: number): number[] =>
  index.map((each, d) => (d === dim ? checkedIndex(chosen.data[i], x.shape[dim]) : each));

type Locate = (x: Value, chosen: Value, dim: number, index: readonly number[], i: number) => number[];

const take =
  (locate: Locate): Kernel =>
  ([x, chosen], [type], { dim }) => [
    gathered(type, (index, i) => x.data[at(stridesOf(x.shape), locate(x, chosen, dim, index, i))]),
  ];

const put =
  (locate: Locate): Kernel =>
  ([base, chosen, updates], [type], { dim }) => {
    const out = base.data.slice();
    forEachIndex(updates.shape, (index, i) => {
      out[at(stridesOf(base.shape), locate(base, chosen, dim, index, i))] += updates.data[i];
    });
    return [out.map((value) => stored(type.dtype, value))];
  };

const uniformOf = (word: number): number => (word >>> 8) * 2 ** -24;

function normalOf(words: readonly number[], lane: number): number {
  const first = lane < 2 ? 0 : 2;
  const radius = Math.sqrt(-2 * Math.log(uniformOf(words[first]) + 2 ** -24));
  const angle = 2 * Math.PI * uniformOf(words[first + 1]);
  return radius * (lane % 2 === 0 ? Math.cos(angle) : Math.sin(angle));
}

/** Random numbers by their elements' indices in the whole, row-major. */
function drawn(
  [key, first]: readonly Value[],
  type: TensorType,
  { stream, whole }: { stream: number; whole: readonly number[] },
  number: (words: readonly number[], place: number) => number,
): Float64Array {
  const strides = stridesOf(whole);
  const words = [...key.data];
  return gathered(type, (index) => {
    const element = (first?.data[0] ?? 0) + at(strides, index);
    return number(drawWords(words, stream, Math.floor(element / 4)), element % 4);
  });
}

export const kernels: Readonly<Record<string, Kernel>> = {
  ...Object.fromEntries(Object.entries(scalars).map(([name, fn]) => [name, elementwise(fn)])),
  gelu: (operands, types, { approximate }: { approximate: "none" | "tanh" }) =>
    elementwise(geluScalars[approximate].value)(operands, types, {}),
  gelu_grad: (operands, types, { approximate }: { approximate: "none" | "tanh" }) =>
    elementwise((x, g) => g * geluScalars[approximate].slope(x))(operands, types, {}),
  where: ([cond, a, b], [type]) => {
    const [condition, x, y] = [cond, a, b].map((value) => broadcastReader(value, type.shape));
    return [gathered(type, (index) => (condition(index) !== 0 ? x(index) : y(index)))];
  },
  constant: (_, [type], { data }) => [readElements(type.dtype, data)],
  full: (_, [type], { value }) => [gathered(type, () => value)],
  iota: (_, [type], { dim }) => [gathered(type, (index) => index[dim])],
  random_uniform: (operands, [type], attrs) => [
    drawn(operands, type, attrs, (words, place) => uniformOf(words[place])),
  ],
  random_normal: (operands, [type], attrs) => [drawn(operands, type, attrs, normalOf)],
  sum: reduce(0, (sum, x) => sum + x),
  prod: reduce(1, (product, x) => product * x),
  max: reduce(Number.NEGATIVE_INFINITY, larger),
  min: reduce(Number.POSITIVE_INFINITY, smaller),
  argmax: extremeIndex(-1),
  argmin: extremeIndex(1),
  cumsum: ([x], [type], { dim, reverse }) => {
    const out = new Float64Array(x.data.length);
    forEachLine(x.shape, dim, (positions) => {
      let sum = 0;
      for (const p of reverse ? positions.reverse() : positions) {
        sum += x.data[p];
        out[p] = stored(type.dtype, sum);
      }
    });
    return [out];
  },
  dot_general: dotGeneral,
  reshape: ([x]) => [x.data],
  transpose: ([x], [type], { perm }) => {
    const strides = stridesOf(x.shape);
    const moved = type.shape.map((_, d) => strides[perm[d]]);
    return [gathered(type, (index) => x.data[at(moved, index)])];
  },
  broadcast_to: ([x], [type]) => [gathered(type, broadcastReader(x, type.shape))],
  slice: ([x], [type], { starts, steps }) => {
    const strides = stridesOf(x.shape);
    const start = at(strides, starts);
    const by = strides.map((stride, d) => stride * steps[d]);
    return [gathered(type, (index) => x.data[start + at(by, index)])];
  },
  flip: ([x], [type], { dims }) => {
    const strides = stridesOf(x.shape);
    const from = (index: readonly number[]): number[] =>
      index.map((i, d) => (dims.includes(d) ? x.shape[d] - 1 - i : i));
    return [gathered(type, (index) => x.data[at(strides, from(index))])];
  },
  pad: ([x], [type], { low, interior, value }) => {
    const out = new Float64Array(sizeOf(type.shape)).fill(value);
    const strides = stridesOf(type.shape);
    forEachIndex(x.shape, (index, i) => {
      const to = index.map((each, d) => low[d] + each * (interior[d] + 1));
      out[at(strides, to)] = x.data[i];
    });
    return [out];
  },
  concat: (operands, [type], { dim }) => {
    const out = new Float64Array(sizeOf(type.shape));
    const strides = stridesOf(type.shape);
    let start = 0;
    for (const x of operands) {
      forEachIndex(x.shape, (index, i) => {
        out[at(strides, index) + start * strides[dim]] = x.data[i];
      });
      start += x.shape[dim];
    }
    return [out];
  },
  index_select: take(selectedIndex),
  index_add: put(selectedIndex),
  gather: take(gatheredIndex),
  scatter_add: put(gatheredIndex),
  sort: (operands, types, { dim, descending }) => takeOrdered(operands, types, dim, descending ? -1 : 1),
  topk: (operands, types, { dim, largest }) => takeOrdered(operands, types, dim, largest ? -1 : 1),
};
