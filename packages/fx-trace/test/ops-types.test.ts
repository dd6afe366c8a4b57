import { describe, expect, it } from "vitest";
import {
  buildGraph,
  type DType,
  DTypeError,
  formatType,
  input,
  type LazuliError,
  type Node,
  type OpName,
  ops,
  opTable,
  type Shape,
  ShapeError,
  ValueError,
  withScope,
} from "../src/index.js";

const x = (shape: Shape, dtype: DType = "float32"): Node => input([], { index: 0, shape, dtype });
const typeOf = (node: Node): string => node.types.map(formatType).join(" ");
const call = (name: OpName, inputs: Node[], attrs: object = {}): Node =>
  (ops[name] as unknown as (inputs: Node[], attrs: object) => Node)(inputs, attrs);

type Good = readonly [op: OpName, inputs: Node[], attrs: object, type: string];

const good: Good[] = [
  ["add", [x([2, 1]), x([3])], {}, "float32[2, 3]"],
  ["add", [x([]), x([2], "float32")], {}, "float32[2]"],
  ["mul", [x([0, 3], "int32"), x([1, 3], "int32")], {}, "int32[0, 3]"],
  ["eq", [x([2], "bool"), x([], "bool")], {}, "bool[2]"],
  ["lt", [x([2, 1], "int64"), x([3], "int64")], {}, "bool[2, 3]"],
  ["neg", [x([2], "uint8")], {}, "uint8[2]"],
  ["isnan", [x([2], "float16")], {}, "bool[2]"],
  ["cast", [x([2])], { dtype: "bool" }, "bool[2]"],
  ["where", [x([3], "bool"), x([2, 1]), x([])], {}, "float32[2, 3]"],
  ["sum", [x([2, 3, 4])], { dims: [0, 2], keepdim: false }, "float32[3]"],
  ["max", [x([2, 3], "bool")], { dims: [1], keepdim: true }, "bool[2, 1]"],
  ["argmax", [x([2, 3], "int64")], { dim: 0, keepdim: false }, "int32[3]"],
  ["cumsum", [x([2, 3], "int32")], { dim: 1, reverse: false }, "int32[2, 3]"],
  ["mean", [x([2, 3], "bfloat16")], { dims: [], keepdim: false }, "bfloat16[2, 3]"],
  [
    "dot_general",
    [x([7, 2, 3, 4]), x([3, 5, 7])],
    { lhs_contract: [2], rhs_contract: [0], lhs_batch: [0], rhs_batch: [2] },
    "float32[7, 2, 4, 5]",
  ],
  ["reshape", [x([2, 6])], { shape: [3, 4] }, "float32[3, 4]"],
  ["transpose", [x([2, 3, 4])], { perm: [2, 0, 1] }, "float32[4, 2, 3]"],
  ["broadcast_to", [x([3, 1])], { shape: [2, 3, 4] }, "float32[2, 3, 4]"],
  ["slice", [x([7])], { starts: [1], limits: [6], steps: [2] }, "float32[3]"],
  ["slice", [x([7])], { starts: [7], limits: [7], steps: [1] }, "float32[0]"],
  ["flip", [x([2, 3])], { dims: [1] }, "float32[2, 3]"],
  ["pad", [x([3])], { low: [1], high: [2], interior: [1], value: 0 }, "float32[8]"],
  ["pad", [x([0])], { low: [1], high: [2], interior: [1], value: 0 }, "float32[3]"],
  ["concat", [x([2, 3]), x([2, 0]), x([2, 1])], { dim: 1 }, "float32[2, 4]"],
  ["index_select", [x([5, 6, 7]), x([2, 3], "int64")], { dim: 1 }, "float32[5, 2, 3, 7]"],
  ["index_select", [x([5, 6]), x([], "int32")], { dim: 0 }, "float32[6]"],
  ["index_add", [x([5, 6]), x([3], "int32"), x([3, 6])], { dim: 0 }, "float32[5, 6]"],
  ["gather", [x([5, 6]), x([4, 9], "int32")], { dim: 1 }, "float32[4, 9]"],
  ["scatter_add", [x([5, 6]), x([4, 9], "int32"), x([4, 9])], { dim: 1 }, "float32[5, 6]"],
  ["sort", [x([2, 3], "int64")], { dim: 0, descending: true }, "int64[2, 3] int32[2, 3]"],
  ["topk", [x([2, 3])], { k: 2, dim: 1, largest: true }, "float32[2, 2] int32[2, 2]"],
  ["result", [call("sort", [x([2, 3])], { dim: 0, descending: true })], { index: 1 }, "int32[2, 3]"],
  ["full", [], { value: 1, shape: [2], dtype: "bool" }, "bool[2]"],
  ["iota", [], { dim: 1, shape: [2, 3], dtype: "int64" }, "int64[2, 3]"],
  ["constant", [], { shape: [2], dtype: "int32", data: new Uint8Array(8) }, "int32[2]"],
  ["random_normal", [x([2], "int64")], { stream: 3, shape: [4], whole: [4], dtype: "float32" }, "float32[4]"],
  [
    "random_uniform",
    [x([2], "int64"), x([], "int64")],
    { stream: 3, shape: [2, 3], whole: [4, 3], dtype: "float32" },
    "float32[2, 3]",
  ],
  ["bernoulli", [x([2], "int64")], { p: 0.5, stream: 3, shape: [4], whole: [4], dtype: "bool" }, "bool[4]"],
];

const dot = { lhs_contract: [], rhs_contract: [], lhs_batch: [], rhs_batch: [] };
type Kind = new (op: string, detail: string) => LazuliError;
type Bad = readonly [op: OpName, inputs: Node[], attrs: object, kind: Kind, detail: string];

const bad: Bad[] = [
  ["add", [x([2, 3]), x([4])], {}, ShapeError, "shapes do not broadcast: [2, 3] and [4]"],
  ["add", [x([2]), x([2], "int32")], {}, DTypeError, "operands differ in dtype: float32[2] and int32[2]"],
  [
    "add",
    [x([2], "bool"), x([2], "bool")],
    {},
    DTypeError,
    "takes int and float dtypes, but its operands' dtype is bool",
  ],
  [
    "atan2",
    [x([2], "int32"), x([2], "int32")],
    {},
    DTypeError,
    "takes float dtypes, but its operands' dtype is int32",
  ],
  ["lt", [x([2]), x([3])], {}, ShapeError, "shapes do not broadcast: [2] and [3]"],
  ["logical_and", [x([2]), x([2])], {}, DTypeError, "takes bool, but its operands' dtype is float32"],
  ["exp", [x([2], "int32")], {}, DTypeError, "takes float dtypes, but its input is int32"],
  ["neg", [x([2], "bool")], {}, DTypeError, "takes int and float dtypes, but its input is bool"],
  ["silu_grad", [x([2]), x([3])], {}, ShapeError, "shapes differ: [2] and [3]"],
  ["where", [x([2]), x([2]), x([2])], {}, DTypeError, "the condition must be bool, got float32[2]"],
  [
    "where",
    [x([2], "bool"), x([2]), x([2], "int32")],
    {},
    DTypeError,
    "operands differ in dtype: float32[2] and int32[2]",
  ],
  ["where", [x([3], "bool"), x([2]), x([2])], {}, ShapeError, "shapes do not broadcast: [3] and [2]"],
  [
    "sum",
    [x([2], "bool")],
    { dims: [0], keepdim: false },
    DTypeError,
    "takes int and float dtypes, but its input is bool",
  ],
  [
    "sum",
    [x([2])],
    { dims: [1], keepdim: false },
    ShapeError,
    "dim 1 is out of range for a tensor of rank 1",
  ],
  ["sum", [x([2, 3])], { dims: [1, 1], keepdim: false }, ShapeError, "dim 1 is named twice in [1, 1]"],
  ["sum", [x([2, 3])], { dims: [1, 0], keepdim: false }, ShapeError, "dims must be ascending, got [1, 0]"],
  [
    "max",
    [x([2, 0])],
    { dims: [1], keepdim: false },
    ShapeError,
    "there is no max of no elements: dim 1 of [2, 0] is empty",
  ],
  [
    "argmin",
    [x([0])],
    { dim: 0, keepdim: false },
    ShapeError,
    "there is no argmin of no elements: dim 0 of [0] is empty",
  ],
  [
    "mean",
    [x([2], "int32")],
    { dims: [0], keepdim: false },
    DTypeError,
    "takes float dtypes, but its input is int32",
  ],
  [
    "dot_general",
    [x([2, 3]), x([4, 5])],
    { ...dot, lhs_contract: [1], rhs_contract: [0] },
    ShapeError,
    "contracted sizes differ: dim 1 of [2, 3] and dim 0 of [4, 5]",
  ],
  [
    "dot_general",
    [x([2, 3]), x([3, 5])],
    { ...dot, lhs_contract: [1], rhs_contract: [0], lhs_batch: [0] },
    ShapeError,
    "batch dims do not pair up: [0] and []",
  ],
  [
    "dot_general",
    [x([2, 3]), x([3, 5])],
    { ...dot, lhs_contract: [1], rhs_contract: [0], lhs_batch: [1], rhs_batch: [0] },
    ShapeError,
    "dim 1 is both contracted [1] and batch [1]",
  ],
  [
    "dot_general",
    [x([2]), x([2], "float16")],
    dot,
    DTypeError,
    "operands differ in dtype: float32[2] and float16[2]",
  ],
  ["reshape", [x([2, 3])], { shape: [4] }, ShapeError, "[2, 3] has 6 elements, [4] has 4"],
  [
    "reshape",
    [x([2])],
    { shape: [-1] },
    ShapeError,
    "dims must be integers of at least 0, but dim 0 of [-1] is -1",
  ],
  ["transpose", [x([2, 3])], { perm: [0] }, ShapeError, "perm [0] does not permute the dims of [2, 3]"],
  ["transpose", [x([2, 3])], { perm: [0, 0] }, ShapeError, "dim 0 is named twice in [0, 0]"],
  ["broadcast_to", [x([2, 3])], { shape: [2, 1] }, ShapeError, "[2, 3] does not broadcast to [2, 1]"],
  ["broadcast_to", [x([2, 3])], { shape: [3] }, ShapeError, "[2, 3] does not broadcast to [3]"],
  [
    "slice",
    [x([3])],
    { starts: [1], limits: [4], steps: [1] },
    ShapeError,
    "1..4 is out of range for dim 0 of [3]",
  ],
  [
    "slice",
    [x([3])],
    { starts: [0], limits: [2], steps: [0] },
    ValueError,
    "steps must be integers of at least 1, got [0]",
  ],
  [
    "slice",
    [x([3])],
    { starts: [], limits: [2], steps: [1] },
    ShapeError,
    "starts has 0 entries [] for an input of shape [3]",
  ],
  [
    "pad",
    [x([3])],
    { low: [-1], high: [0], interior: [0], value: 0 },
    ValueError,
    "low must be integers of at least 0, got [-1]",
  ],
  [
    "concat",
    [x([2, 3]), x([3, 3])],
    { dim: 1 },
    ShapeError,
    "shapes must agree but for dim 1: [2, 3] and [3, 3]",
  ],
  ["concat", [], { dim: 1 }, ValueError, "takes 1 input or more, got 0"],
  [
    "index_select",
    [x([2]), x([2])],
    { dim: 0 },
    DTypeError,
    "takes int32 and int64, but the index is float32",
  ],
  [
    "index_add",
    [x([5, 6]), x([3], "int32"), x([4, 6])],
    { dim: 0 },
    ShapeError,
    "updates must have shape [3, 6] for base [5, 6] and index [3], got [4, 6]",
  ],
  [
    "gather",
    [x([5, 6]), x([6, 2], "int32")],
    { dim: 1 },
    ShapeError,
    "index [6, 2] does not fit in [5, 6] along every dim but 1",
  ],
  [
    "scatter_add",
    [x([5, 6]), x([5, 2], "int32"), x([5, 3])],
    { dim: 1 },
    ShapeError,
    "index [5, 2] and updates [5, 3] differ in shape",
  ],
  [
    "topk",
    [x([2, 3])],
    { k: 4, dim: 1, largest: true },
    ValueError,
    "k must be in 0..3 for dim 1 of float32[2, 3], got 4",
  ],
  [
    "result",
    [call("sort", [x([2])], { dim: 0, descending: true })],
    { index: 2 },
    ValueError,
    "sort has 2 results, but result 2 is asked for",
  ],
  [
    "constant",
    [],
    { shape: [2], dtype: "int32", data: new Uint8Array(4) },
    ShapeError,
    "int32[2] takes 8 bytes, got 4",
  ],
  [
    "iota",
    [],
    { dim: 1, shape: [2], dtype: "int32" },
    ShapeError,
    "dim 1 is out of range for a tensor of rank 1",
  ],
  [
    "all_reduce",
    [x([2], "bool")],
    { mesh: [2], axes: [0], kind: "sum" },
    DTypeError,
    "takes int and float dtypes, but its input is bool",
  ],
  [
    "random_uniform",
    [x([2], "int32")],
    { stream: 0, shape: [1], whole: [1], dtype: "float32" },
    DTypeError,
    "the key must be int64[2], got int32[2]",
  ],
  [
    "random_uniform",
    [x([3], "int64")],
    { stream: 0, shape: [1], whole: [1], dtype: "float32" },
    ShapeError,
    "the key must be int64[2], got int64[3]",
  ],
  [
    "random_uniform",
    [x([2], "int64"), x([], "int32")],
    { stream: 0, shape: [1], whole: [1], dtype: "float32" },
    ShapeError,
    "the first element's index must be int64[], got int32[]",
  ],
  [
    "random_normal",
    [x([2], "int64")],
    { stream: 0, shape: [2, 3], whole: [4, 2], dtype: "float32" },
    ShapeError,
    "[2, 3] is no part of [4, 2]",
  ],
  [
    "bernoulli",
    [x([2], "int64")],
    { p: 1.5, stream: 0, shape: [1], whole: [1], dtype: "float32" },
    ValueError,
    "p must be in [0, 1], got 1.5",
  ],
];

describe("type rules", () => {
  it.each(good)("%s %#", (op, inputs, attrs, type) => expect(typeOf(call(op, inputs, attrs))).toBe(type));

  it.each(bad)("%s refuses %#", (op, inputs, attrs, kind, detail) => {
    let error: unknown;
    try {
      call(op, inputs, attrs);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(kind);
    expect((error as Error).message).toBe(`[${op}] ${detail}`);
  });

  it("name the module path", () => {
    expect(() => withScope("blocks", () => withScope("3", () => ops.add([x([2]), x([3])])))).toThrow(
      "[add] shapes do not broadcast: [2] and [3] (in blocks.3)",
    );
  });

  it("share the operand's type where nothing changes", () => {
    const a = x([2, 3]);
    expect(ops.exp([a]).types).toBe(a.types);
    expect(ops.add([a, x([3])]).types).toBe(a.types);
    expect(ops.mul([x([]), a]).types).toBe(a.types);
  });
});

describe("the op table", () => {
  it("has every op under its own name, coded by position", () => {
    const names = Object.keys(ops);
    expect(opTable.map((op) => op.name)).toEqual(names);
    expect(opTable.map((op) => op.code)).toEqual(names.map((_, code) => code));
    expect(names.slice(0, 4)).toEqual(["input", "constant", "result", "detach"]);
  });

  it("decomposes every composite, and to nodes of the types the op promises", () => {
    const composites = opTable.filter((op) => op.lower === "composite");
    expect(composites.map((op) => op.name)).toEqual(["mean", "logsumexp", "bernoulli"]);
    const nodes = [
      ops.mean([x([2, 3], "bfloat16")], { dims: [1], keepdim: true }),
      ops.logsumexp([x([2, 3], "float16")], { dims: [0], keepdim: false }),
      ops.bernoulli([x([2], "int64")], { p: 0.3, stream: 1, shape: [5], whole: [5], dtype: "int32" }),
    ];
    for (const node of nodes) {
      const { outputs } = buildGraph(
        () => node.op.decompose?.(node.inputs, node.attrs as never, node) as Node[],
      );
      expect(outputs.map(typeOf)).toEqual([typeOf(node)]);
    }
  });
});
