import { beforeAll, describe, expect, it } from "vitest";
import {
  arange,
  cat,
  configure,
  DTypeError,
  einsum,
  eye,
  full,
  linspace,
  randint,
  ShapeError,
  stack,
  TensorError,
  tensor,
  where,
  zeros,
} from "../src/index.js";

beforeAll(() => {
  configure({ device: "cpu", verifyPasses: true });
});

describe("creation", () => {
  it("infers shape and dtype from nested arrays and typed arrays", () => {
    expect(
      tensor([
        [1, 2, 3],
        [4, 5, 6],
      ]).shape,
    ).toEqual([2, 3]);
    expect(tensor(5).shape).toEqual([]);
    expect(tensor([true, false]).dtype).toBe("bool");
    expect(tensor(new Int32Array(4)).dtype).toBe("int32");
    expect(tensor(new Float64Array(4), { shape: [2, 2] }).toString()).toBe("Tensor(float64[2, 2])");
  });
  it("refuses ragged data, wrong counts and numbers an integer cannot hold", () => {
    expect(() => tensor([[1, 2], [3]])).toThrow(ShapeError);
    expect(() => tensor([1, 2, 3], { shape: [2, 2] })).toThrow(/3 elements do not fit the shape \[2, 2\]/);
    expect(() => tensor([1.5], { dtype: "int32" })).toThrow(/1.5 is not an int32/);
    expect(() => tensor([300], { dtype: "uint8" })).toThrow(TensorError);
  });
  it("makes ranges and special matrices", async () => {
    expect(await arange(5).array()).toEqual([0, 1, 2, 3, 4]);
    expect(await arange(1, 10, 3, { dtype: "int32" }).array()).toEqual([1, 4, 7]);
    expect(await linspace(0, 1, 3).array()).toEqual([0, 0.5, 1]);
    expect(await eye(2).array()).toEqual([
      [1, 0],
      [0, 1],
    ]);
    const dice = (await randint(1, 7, [1000]).array()) as number[];
    expect(Math.min(...dice)).toBe(1);
    expect(Math.max(...dice)).toBe(6);
  });
  it.each(["bfloat16", "float16", "float64", "int64", "uint8"] as const)("round-trips %s", async (dtype) => {
    const values = [0, 1, 2, 3, 100];
    expect(Array.from(await tensor(values, { dtype }).data(), Number)).toEqual(values);
  });
  it("rounds half types to nearest even and keeps special values", async () => {
    const values = [1 / 3, 65504, 1e-7, -0, Number.POSITIVE_INFINITY, Number.NaN, 70000, 6e-8];
    const half = Array.from((await tensor(values, { dtype: "float16" }).data()) as Float32Array);
    expect(half).toEqual([0.333251953125, 65504, 2 ** -23, -0, Infinity, NaN, Infinity, 2 ** -24]);
    const brain = Array.from(
      (await tensor([1 / 3, 3.4e38, NaN], { dtype: "bfloat16" }).data()) as Float32Array,
    );
    expect(brain).toEqual([0.333984375, Infinity, NaN]);
  });
});

describe("dtypes", () => {
  it("promotes as PyTorch does", () => {
    const i = tensor([1], { dtype: "int32" });
    const f = tensor([1]);
    expect(i.add(f).dtype).toBe("float32");
    expect(i.add(1).dtype).toBe("int32");
    expect(i.add(0.5).dtype).toBe("float32");
    expect(i.div(2).dtype).toBe("float32");
    expect(i.lt(f).dtype).toBe("bool");
    expect(tensor([1], { dtype: "bfloat16" }).add(tensor([1], { dtype: "float16" })).dtype).toBe("float32");
    expect(tensor([1], { dtype: "bfloat16" }).mul(2.5).dtype).toBe("bfloat16");
    expect(i.exp().dtype).toBe("float32");
    expect(tensor([true]).sum().dtype).toBe("int32");
  });
  it("throws at the call, with both values", () => {
    expect(() => zeros([2, 3]).add(zeros([4]))).toThrow(/\[2, 3\].*\[4\]/);
    expect(() => zeros([2, 3]).matmul(zeros([4, 5]))).toThrow(ShapeError);
    expect(() => zeros([2, 3]).matmul(zeros([4, 5]))).toThrow(/\[2, 3\].*\[4, 5\]/);
    expect(() => zeros([2]).indexSelect(0, zeros([2]))).toThrow(DTypeError);
  });
});

describe("movement and indexing", () => {
  const grid = () => arange(24).reshape([2, 3, 4]);
  it("indexes as Python does", async () => {
    expect(await grid().at(0, 1).array()).toEqual([4, 5, 6, 7]);
    expect(await grid().at(-1, null, -1).array()).toEqual([15, 19, 23]);
    expect(await grid().at(0, [1], [0, 4, 2]).array()).toEqual([
      [4, 6],
      [8, 10],
    ]);
    expect(await grid().at(0, [-2, null], 0).array()).toEqual([4, 8]);
    expect(
      await grid()
        .at(null, tensor([2, 0], { dtype: "int32" }), 0)
        .array(),
    ).toEqual([
      [8, 0],
      [20, 12],
    ]);
    expect(() => grid().at(2)).toThrow(/index 2 is out of range for a dim of size 2/);
  });
  it("reshapes, splits and joins", async () => {
    expect(grid().reshape([6, -1]).shape).toEqual([6, 4]);
    expect(() => grid().reshape([5, -1])).toThrow(ShapeError);
    expect(grid().flatten(1).shape).toEqual([2, 12]);
    expect(grid().unsqueeze(-1).squeeze().shape).toEqual([2, 3, 4]);
    const parts = arange(5).split(2);
    expect(parts.map((p) => p.shape[0])).toEqual([2, 2, 1]);
    expect(await cat(parts).array()).toEqual([0, 1, 2, 3, 4]);
    expect(await stack([arange(2), arange(2)], 1).array()).toEqual([
      [0, 0],
      [1, 1],
    ]);
    expect(await arange(4).flip(0).array()).toEqual([3, 2, 1, 0]);
    expect(await grid().transpose(0, 2).at(0).array()).toEqual([
      [0, 12],
      [4, 16],
      [8, 20],
    ]);
  });
  it("selects", async () => {
    const x = tensor([
      [1, -2],
      [-3, 4],
    ]);
    expect(await where(x.gt(0), x, 0).array()).toEqual([
      [1, 0],
      [0, 4],
    ]);
    expect(await where(x.gt(0), 1, x).array()).toEqual([
      [1, -2],
      [-3, 1],
    ]);
    expect(await x.maskedFill(x.lt(0), 9).array()).toEqual([
      [1, 9],
      [9, 4],
    ]);
    expect(await full([3, 3], 1).tril().sum().item()).toBe(6);
    expect(await tensor([0, 2], { dtype: "int32" }).oneHot(3).array()).toEqual([
      [1, 0, 0],
      [0, 0, 1],
    ]);
    const { values, indices } = tensor([3, 1, 2]).sort();
    expect(await values.array()).toEqual([1, 2, 3]);
    expect(await indices.array()).toEqual([1, 2, 0]);
    expect(await tensor([3, 1, 2]).topk(2).values.array()).toEqual([3, 2]);
  });
  it("contracts by equation", async () => {
    const a = tensor([
      [1, 2],
      [3, 4],
    ]);
    const b = tensor([
      [5, 6],
      [7, 8],
    ]);
    expect(await einsum("ij,jk->ik", a, b).array()).toEqual([
      [19, 22],
      [43, 50],
    ]);
    expect(await einsum("ij,ij->", a, b).item()).toBe(70);
    expect(await einsum("ij->ji", a).array()).toEqual([
      [1, 3],
      [2, 4],
    ]);
  });
});

describe("reading", () => {
  it("shows itself without running", () => {
    const x = zeros([2, 3]).add(1);
    expect(`${x}`).toBe("Tensor(float32[2, 3], pending)");
    expect(x.isPending).toBe(true);
  });
  it("refuses to be a number or a truth value by accident", () => {
    expect(() => Number(zeros([1]))).toThrow(/await t.item\(\)/);
    // biome-ignore lint/suspicious/noExplicitAny: what an untyped caller would do
    expect(() => (zeros([1]) as any) + 1).toThrow(TensorError);
  });
  it("refuses item() of several elements", async () => {
    await expect(zeros([2]).item()).rejects.toThrow(/2 elements/);
  });
});
