import { describe, expect, it } from "vitest";
import {
  collectiveNames,
  type DType,
  input,
  type Node,
  ops,
  opTable,
  type Shape,
  type ShardingRule,
} from "../src/index.js";

const x = (shape: Shape, dtype: DType = "float32"): Node => input([], { index: 0, shape, dtype });

function ruleOf(node: Node): ShardingRule {
  const { sharding } = node.op;
  if (!sharding) throw new Error(`${node.op.name} has no sharding rule`);
  return typeof sharding === "function" ? sharding(node.inputs, node.attrs as never) : sharding;
}

const reshape = (from: Shape, to: Shape): string => ruleOf(ops.reshape([x(from)], { shape: to })).factors;

describe("sharding rules", () => {
  it("elementwise ops align at the last dim; stretched dims stay whole", () => {
    expect(ruleOf(ops.add([x([2, 1, 3]), x([4, 1])])).factors).toBe("d0 _ d2, d1 _ -> d0 d1 d2");
    expect(ruleOf(ops.mul([x([2, 3]), x([])])).factors).toBe("d0 d1,  -> d0 d1");
    expect(ruleOf(ops.add([x([1, 3]), x([1, 3])])).factors).toBe("d0 d1, d0 d1 -> d0 d1");
  });

  it("reductions and contractions name what they sum over", () => {
    expect(ruleOf(ops.sum([x([2, 3, 4])], { dims: [1], keepdim: false }))).toEqual({
      factors: "d0 d1 d2 -> d0 d2",
      reduce: ["d1"],
    });
    expect(ruleOf(ops.max([x([2, 3])], { dims: [1], keepdim: true }))).toEqual({
      factors: "d0 d1 -> d0 _",
      reduce: ["d1"],
    });
    expect(ruleOf(ops.argmax([x([2, 3])], { dim: 0, keepdim: false }))).toEqual({
      factors: "d0 d1 -> d1",
      replicate: ["d0"],
    });
    const dot = ops.dot_general([x([5, 2, 3]), x([5, 3, 4])], {
      lhs_contract: [2],
      rhs_contract: [1],
      lhs_batch: [0],
      rhs_batch: [0],
    });
    expect(ruleOf(dot)).toEqual({ factors: "b0 m1 k0, b0 k0 n2 -> b0 m1 n2", reduce: ["k0"] });
  });

  it("reshape splits and merges", () => {
    expect(reshape([6, 5], [2, 3, 5])).toBe("(d0 d1) d2 -> d0 d1 d2");
    expect(reshape([2, 3, 5], [6, 5])).toBe("d0 d1 d2 -> (d0 d1) d2");
    expect(reshape([2, 1, 3], [2, 3])).toBe("d0 _ d1 -> d0 d1");
    expect(reshape([4, 6], [8, 3])).toBe("d0 (d1 d2) -> (d0 d1) d2");
    expect(reshape([6, 4, 7], [4, 6, 7])).toBe("_ _ d0 -> _ _ d0");
    expect(reshape([12, 4], [2, 4, 6])).toBe("(d0 _) _ -> d0 _ _");
    expect(reshape([1], [])).toBe("_ -> ");
    expect(reshape([0, 3], [3, 0])).toBe("_ _ -> _ _");
  });

  it("views keep the dims they leave alone", () => {
    expect(ruleOf(ops.transpose([x([2, 3, 4])], { perm: [2, 0, 1] })).factors).toBe("d0 d1 d2 -> d2 d0 d1");
    expect(ruleOf(ops.broadcast_to([x([3, 1])], { shape: [2, 3, 4] })).factors).toBe("d1 _ -> d0 d1 d2");
    expect(ruleOf(ops.slice([x([4, 5])], { starts: [0, 1], limits: [4, 5], steps: [1, 1] })).factors).toBe(
      "d0 _ -> d0 _",
    );
    expect(ruleOf(ops.concat([x([4, 5]), x([4, 1])], { dim: 1 })).factors).toBe("d0 _, d0 _ -> d0 _");
  });

  it("lookups keep the rows whole", () => {
    expect(ruleOf(ops.index_select([x([9, 4]), x([2, 3], "int32")], { dim: 0 }))).toEqual({
      factors: "d0 d1, i0 i1 -> i0 i1 d1",
      replicate: ["d0"],
    });
    expect(ruleOf(ops.gather([x([9, 4]), x([9, 1], "int32")], { dim: 1 }))).toEqual({
      factors: "d0 d1, d0 i1 -> d0 i1",
      replicate: ["d1"],
    });
    expect(ruleOf(ops.topk([x([9, 4])], { k: 2, dim: 1, largest: true }))).toEqual({
      factors: "d0 d1 -> d0 k, d0 k",
      replicate: ["d1", "k"],
    });
  });

  it("are there for every op", () => {
    const without = opTable.filter((op) => op.sharding === undefined).map((op) => op.name);
    // `result` takes the sharding of what it names; collectives are made by the partitioner, for one device each.
    const made = collectiveNames.filter((name) => name !== "sharding_constraint");
    expect(without).toEqual(["result", ...made]);
  });
});
