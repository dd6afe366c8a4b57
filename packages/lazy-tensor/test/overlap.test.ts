import { type NativeDevice, openDevice } from "@lazuli/cuda-backend";
import {
  dtypeInfo,
  encodeNodes,
  type Graph,
  type Node,
  runPasses,
  sizeOf,
  standardPasses,
} from "@lazuli/fx-trace";
import {
  combineSmallSums,
  type Mesh,
  overlapCollectives,
  type PartitionRequest,
  partition,
} from "@lazuli/sharding";
import * as fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";

// Test code of a package has no package name; behind a name, so that its sources stay outside this project's.
interface RandomSharded {
  readonly recipe: fc.Arbitrary<{ readonly data: readonly number[] }>;
  makeSharded(recipe: unknown): { readonly graph: Graph; readonly request: PartitionRequest };
}
const randomPath = "../../sharding/test/random_sharded.ts";
const { recipe, makeSharded }: RandomSharded = await import(randomPath);

const devices = new Map<number, NativeDevice>();
afterAll(() => {
  for (const device of devices.values()) device.close();
});

/** One for all meshes of a size, so that what a program leaves behind would matter to the next. */
function deviceFor({ size }: Mesh): NativeDevice {
  const known = devices.get(size) ?? openDevice("cpu", { virtualDevices: size });
  devices.set(size, known);
  return known;
}

let buffers = 0;

/** Every device's outputs, as bytes. Places are 0 or 1; other numbers have fractions, so that an order of additions shows. */
async function outputsOf(graph: Graph, mesh: Mesh, seed: readonly number[]): Promise<Uint8Array[][]> {
  const device = deviceFor(mesh);
  const isInput = (node: Node): boolean => node.op.name === "input";
  const nodes = graph.nodes.filter((node) => !isInput(node));
  const { words } = encodeNodes(nodes, graph.outputs, { isInput, inputs: graph.inputs });
  const { id } = device.compile(words.slice());
  const inputs = graph.inputs.map(({ shape, dtype }, k) => {
    const buffer = ++buffers;
    for (const d of device.localDevices) {
      const at = (i: number): number => seed[(d + k * 7 + i * 3) % seed.length];
      const size = sizeOf(shape);
      if (dtype === "int32")
        device.upload(
          buffer,
          Int32Array.from({ length: size }, (_, i) => Math.abs(at(i)) % 2),
          d,
        );
      else
        device.upload(
          buffer,
          Float64Array.from({ length: size }, (_, i) => at(i) + i / 7 + d / 11),
          d,
        );
    }
    return buffer;
  });
  const outputs = graph.outputs.map(() => ++buffers);
  await device.run(id, inputs, outputs);
  const read = (buffer: number, node: Node, d: number): Promise<Uint8Array> => {
    const bytes = new Uint8Array(sizeOf(node.shape) * dtypeInfo[node.dtype].sizeBytes);
    return device.download(buffer, bytes, d).then(() => bytes);
  };
  const found = await Promise.all(
    device.localDevices.map((d) => Promise.all(graph.outputs.map((node, o) => read(outputs[o], node, d)))),
  );
  device.free([...inputs, ...outputs]);
  device.release(id);
  return found;
}

describe("collectives under way beside compute", { timeout: 120_000 }, () => {
  it("give every device of a mesh the bits that they give where they stand", async () => {
    const passes = [...standardPasses((op) => op.lower !== "composite"), combineSmallSums];
    const placing = fc.record({
      bucketBytes: fc.constantFrom(100, 1e9),
      prefetch: fc.nat(3),
      worthSeconds: fc.constant(Number.MIN_VALUE),
    });
    let started = 0;
    await fc.assert(
      fc.asyncProperty(recipe, placing, async (made, options) => {
        const { graph, request } = makeSharded(made);
        const plain = runPasses(partition(graph, request).graph, passes);
        const overlapped = overlapCollectives(plain, options);
        started += overlapped.nodes.filter(({ op }) => op.name === "collective_done").length;
        if (overlapped === plain) return;
        const expected = await outputsOf(plain, request.mesh, made.data);
        expect(await outputsOf(overlapped, request.mesh, made.data)).toEqual(expected);
      }),
      { seed: 20261122, numRuns: 150 },
    );
    expect(started).toBeGreaterThan(100);
  });
});
