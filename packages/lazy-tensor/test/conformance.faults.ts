import { type DeviceName, type NativeDevice, openDevice } from "@lazuli/cuda-backend";
import { buildGraph, input, type Node, ops, type Shape } from "@lazuli/fx-trace";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { everyKernel, runGraph } from "./conformance.harness.js";
import { encodeNumbers } from "./ops.samples.data.js";

/** What only data can show: the run fails, says which index it was, and the device goes on. */
export function outOfRange(name: DeviceName): void {
  describe(`an index out of range on ${name}`, () => {
    let device: NativeDevice;
    beforeAll(() => {
      device = openDevice(name);
    });
    afterAll(() => device.close());

    const floats = (shape: Shape): Node => ops.full([], { value: 1, shape, dtype: "float32" });
    const cases: Record<
      string,
      { shape: Shape; index: number[]; bad: number; build: (index: Node) => Node }
    > = {
      index_select: {
        shape: [3],
        index: [0, 5, 1],
        bad: 5,
        build: (index) => ops.index_select([floats([5, 4]), index], { dim: 0 }),
      },
      index_add: {
        shape: [3],
        index: [0, -1, 1],
        bad: -1,
        build: (index) => ops.index_add([floats([5, 4]), index, floats([3, 4])], { dim: 0 }),
      },
      gather: {
        shape: [2, 2],
        index: [0, 1, 7, 0],
        bad: 7,
        build: (index) => ops.gather([floats([2, 4]), index], { dim: 1 }),
      },
      scatter_add: {
        shape: [2, 2],
        index: [0, 1, -9, 0],
        bad: -9,
        build: (index) => ops.scatter_add([floats([2, 4]), index, floats([2, 2])], { dim: 1 }),
      },
      cross_entropy: {
        shape: [2],
        index: [0, 33],
        bad: 33,
        build: (index) =>
          ops.result(
            [ops.cross_entropy([floats([2, 33]), index], { ignore_index: -100, label_smoothing: 0 })],
            { index: 0 },
          ),
      },
    };

    it.each(Object.entries(cases))(
      "fails the run of %s and names the index",
      async (op, { shape, index, bad, build }) => {
        for (const dtype of ["int32", "int64"] as const) {
          const graph = buildGraph(() => build(input([], { index: 0, shape, dtype })));
          const bytes = encodeNumbers(Float64Array.from(index), dtype);
          const run = runGraph(device, graph, [{ shape, dtype, bytes }], everyKernel);
          await expect(run, op).rejects.toThrow(String(bad));
        }
      },
    );
  });
}
