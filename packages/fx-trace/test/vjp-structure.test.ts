import { describe, expect, it } from "vitest";
import {
  concat,
  cumsum,
  dotGeneral,
  logsumexp,
  max,
  mean,
  min,
  type Node,
  ops,
  opTable,
  prod,
  sort,
  sum,
  topk,
} from "../src/index.js";
import { checkGradients, type Operand } from "./gradcheck.js";

const cube: Operand = { shape: [2, 3, 4] };
const index = (shape: readonly number[], data: readonly number[]): Operand => ({
  shape,
  data,
  dtype: "int32",
});

type Case = readonly [
  name: string,
  fn: (...inputs: Node[]) => Node | readonly Node[],
  ...operands: Operand[],
];

const reductions: Case[] = [
  ...[sum, max, min, mean, logsumexp, prod].flatMap((reduce): Case[] => [
    [`${reduce.name} of all`, (x) => reduce(x), cube],
    [`${reduce.name} of the middle`, (x) => reduce(x, 1), cube],
    [`${reduce.name} of the outer, kept`, (x) => reduce(x, [0, 2], true), cube],
    [`${reduce.name} of no dim`, (x) => reduce(x, []), cube],
  ]),
  ["cumsum", (x) => cumsum(x, 1), cube],
  ["cumsum reversed", (x) => cumsum(x, 2, true), cube],
];

const contractions: Case[] = [
  ["inner product", (a, b) => dotGeneral(a, b, [0], [0]), { shape: [3] }, { shape: [3] }],
  ["outer product", (a, b) => dotGeneral(a, b, [], []), { shape: [2, 1] }, { shape: [3] }],
  ["rows by columns", (a, b) => dotGeneral(a, b, [1], [0]), { shape: [2, 3] }, { shape: [3, 4] }],
  ["columns by rows", (a, b) => dotGeneral(a, b, [0], [1]), { shape: [3, 2] }, { shape: [4, 3] }],
  ["rows by rows", (a, b) => dotGeneral(a, b, [1], [1]), { shape: [2, 3] }, { shape: [4, 3] }],
  ["columns by columns", (a, b) => dotGeneral(a, b, [0], [0]), { shape: [3, 2] }, { shape: [3, 4] }],
  ["activations by weights", (a, b) => dotGeneral(a, b, [2], [0]), { shape: [2, 2, 3] }, { shape: [3, 4] }],
  ["batched", (a, b) => dotGeneral(a, b, [2], [1], [0], [0]), { shape: [2, 3, 4] }, { shape: [2, 4, 2] }],
  [
    "two batch dims, crossed",
    (a, b) => dotGeneral(a, b, [1], [2], [3, 0], [1, 3]),
    { shape: [2, 3, 2, 4] },
    { shape: [2, 4, 3, 2] },
  ],
  [
    "two contracted dims, crossed",
    (a, b) => dotGeneral(a, b, [0, 2], [2, 1]),
    { shape: [2, 3, 4] },
    { shape: [3, 4, 2] },
  ],
  [
    "batch dim inside",
    (a, b) => dotGeneral(a, b, [0], [2], [1], [1]),
    { shape: [3, 2, 2] },
    { shape: [4, 2, 3] },
  ],
];

const views: Case[] = [
  ["reshape", (x) => ops.reshape([x], { shape: [4, 6] }), cube],
  ["transpose", (x) => ops.transpose([x], { perm: [2, 0, 1] }), cube],
  ["broadcast_to", (x) => ops.broadcast_to([x], { shape: [2, 3, 4] }), { shape: [3, 1] }],
  ["broadcast_to of a scalar", (x) => ops.broadcast_to([x], { shape: [2, 3] }), { shape: [] }],
  ["slice", (x) => ops.slice([x], { starts: [0, 1, 0], limits: [2, 3, 4], steps: [1, 1, 3] }), cube],
  ["slice with rest", (x) => ops.slice([x], { starts: [1], limits: [6], steps: [2] }), { shape: [7] }],
  ["slice of nothing", (x) => ops.slice([x], { starts: [1], limits: [1], steps: [1] }), { shape: [3] }],
  ["flip", (x) => ops.flip([x], { dims: [2, 0] }), cube],
  ["pad", (x) => ops.pad([x], { low: [1, 0], high: [0, 2], interior: [2, 1], value: 3 }), { shape: [2, 3] }],
  ["concat", (a, b, c) => concat([a, b, a, c], 1), { shape: [2, 3] }, { shape: [2, 1] }, { shape: [2, 2] }],
];

const indexing: Case[] = [
  [
    "index_select of rows",
    (x, i) => ops.index_select([x, i], { dim: 0 }),
    { shape: [4, 2] },
    index([2, 3], [3, 0, 3, 1, 0, 3]),
  ],
  ["index_select inside", (x, i) => ops.index_select([x, i], { dim: 1 }), cube, index([2], [2, 2])],
  ["index_select by a scalar", (x, i) => ops.index_select([x, i], { dim: 2 }), cube, index([], [1])],
  [
    "index_add",
    (x, i, u) => ops.index_add([x, i, u], { dim: 1 }),
    { shape: [2, 3] },
    index([4], [0, 2, 2, 0]),
    { shape: [2, 4] },
  ],
  ["gather", (x, i) => ops.gather([x, i], { dim: 1 }), { shape: [3, 4] }, index([2, 3], [3, 0, 0, 1, 2, 1])],
  [
    "scatter_add",
    (x, i, u) => ops.scatter_add([x, i, u], { dim: 0 }),
    { shape: [2, 3] },
    index([3, 2], [0, 1, 1, 1, 0, 0]),
    { shape: [3, 2] },
  ],
  ["sort", (x) => sort(x, 1)[0], cube],
  ["sort descending", (x) => sort(x, -1, true)[0], cube],
  ["topk", (x) => topk(x, 2, 1)[0], cube],
  ["topk smallest", (x) => topk(x, 3, 2, false)[0], cube],
];

const families = { reductions, contractions, views, indexing };

for (const [family, cases] of Object.entries(families)) {
  describe(`vjp of ${family} against central differences`, () => {
    for (const [name, fn, ...operands] of cases) it(name, () => checkGradients(fn, operands));
  });
}

it("every differentiable op that is no fused kernel has a vjp", () => {
  const lowerings = new Set(["reduction", "contraction", "view", "elementwise"]);
  const missing = opTable.filter((op) => lowerings.has(op.lower) && !op.vjp && op.differentiable);
  expect(missing).toEqual([]);
});
