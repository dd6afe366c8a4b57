import type { NativeDevice } from "@lazuli/cuda-backend";
import {
  apply,
  cse,
  type DType,
  dce,
  dtypeInfo,
  encodeNodes,
  type Graph,
  GraphBuilder,
  input,
  isFloat,
  type Node,
  runPasses,
  simplify,
  sizeOf,
  type TensorType,
  withRecorder,
} from "@lazuli/fx-trace";
import {
  combineSmallSums,
  type Dims,
  encodeDims,
  localShape,
  type Mesh,
  overlapCollectives,
  type Partitioned,
} from "@lazuli/sharding";
import { boundOf } from "./conformance.goldens.js";
import { decodeNumbers, encodeNumbers } from "./ops.samples.data.js";
import type { Sample } from "./ops.samples.types.js";
import { formatLayouts, type Layouts } from "./sharding.layouts.js";

// Many partitioned graphs as one program of a mesh of virtual devices: a program costs far more than what these small
// graphs compute.

interface Value extends TensorType {
  readonly data: Float64Array;
}
const simulatePath = "../../sharding/test/simulate.ts";
const {
  divide,
  assemble,
}: {
  divide(mesh: Mesh, type: TensorType, dims: Dims, whole: ArrayLike<number>): Value[];
  assemble(mesh: Mesh, type: TensorType, dims: Dims, parts: readonly Value[]): Value;
} = await import(simulatePath);

/** A sample's graph in one layout. */
export interface Case {
  readonly name: string;
  readonly sample: Sample;
  readonly layouts: Layouts;
  readonly partitioned: Partitioned;
  /** What the whole graph takes: one object for all of a sample's layouts. */
  readonly inputs: readonly Value[];
  /** What one device gives for it; `isGradient` by output. */
  readonly expected: readonly Value[];
  readonly isGradient: readonly boolean[];
}

const isInput = ({ op }: Node): boolean => op.name === "input";

let nextBuffer = 1;

/** Runs the program on every device of the mesh; `parts` by input and device. Gives the outputs, by output and device. */
async function run(
  device: NativeDevice,
  graph: Graph,
  parts: readonly (readonly Uint8Array[])[],
): Promise<Uint8Array[][]> {
  const nodes = graph.nodes.filter((node) => !isInput(node));
  const { words } = encodeNodes(nodes, graph.outputs, { isInput, inputs: graph.inputs });
  const program = device.compile(words, false);
  const inputs = parts.map((byDevice) => {
    byDevice.forEach((bytes, number) => {
      device.upload(nextBuffer, bytes, number);
    });
    return nextBuffer++;
  });
  const outputs = graph.outputs.map(() => nextBuffer++);
  try {
    await device.run(program.id, inputs, outputs, false);
    const found = graph.outputs.map(({ shape, dtype }) =>
      device.localDevices.map(() => new Uint8Array(sizeOf(shape) * dtypeInfo[dtype].sizeBytes)),
    );
    await Promise.all(
      found.flatMap((byDevice, i) =>
        byDevice.map((bytes, number) => device.download(outputs[i], bytes, number)),
      ),
    );
    device.free(outputs);
    return found;
  } finally {
    device.free(inputs);
    device.release(program.id);
  }
}

/** What one device gives for a whole graph. */
export async function runWhole(
  device: NativeDevice,
  graph: Graph,
  inputs: readonly Value[],
): Promise<Value[]> {
  const bytes = inputs.map(({ data, dtype }) => [encodeNumbers(data, dtype)]);
  const found = await run(device, graph, bytes);
  return graph.outputs.map(({ type }, i) => ({ ...type, data: decodeNumbers(found[i][0], type.dtype) }));
}

/** The cases' graphs as one; inputs that are alike are there once. Gives what they are, by input. */
function join(cases: readonly Case[], mesh: Mesh): { graph: Graph; parts: Uint8Array[][] } {
  const builder = new GraphBuilder();
  const parts: Uint8Array[][] = [];
  const known = new Map<Value, Map<string, Node>>();
  const shared = (value: Value, dims: Dims, shape: readonly number[]): Node => {
    const byDims = known.get(value) ?? new Map<string, Node>();
    known.set(value, byDims);
    const key = encodeDims(dims).join();
    let node = byDims.get(key);
    if (!node) {
      node = input([], { index: parts.length, shape, dtype: value.dtype });
      byDims.set(key, node);
      parts.push(divide(mesh, value, dims, value.data).map(({ data }) => encodeNumbers(data, value.dtype)));
    }
    return node;
  };
  const graph = withRecorder(builder, () =>
    builder.finish(
      cases.flatMap(({ partitioned, layouts, inputs }) => {
        const made = new Map<Node, Node>();
        const of = (node: Node): Node => made.get(node) as Node;
        for (const node of partitioned.graph.nodes) {
          const index = node.attrs.index as number;
          made.set(
            node,
            isInput(node)
              ? shared(inputs[index], layouts.inputs[index], node.shape)
              : apply(node.op, node.inputs.map(of), node.attrs),
          );
        }
        return partitioned.graph.outputs.map(of);
      }),
    ),
  );
  return { graph, parts };
}

const isHalf = (dtype: DType): boolean => dtype === "bfloat16" || dtype === "float16";

/** Whether devices add up values of 16 bits: each rounds its addend. */
const addsHalves = ({ partitioned }: Case): boolean =>
  partitioned.graph.nodes.some(
    ({ op, dtype }) => isHalf(dtype) && (op.name === "all_reduce" || op.name === "reduce_scatter"),
  );

/** Both results may be off the true one by what the sample allows; sums are taken in another order on a mesh. */
function difference(found: Value, one: Case, i: number): string | null {
  const { sample, layouts } = one;
  const { data, dtype } = one.expected[i];
  const { relative, ofLargest, absolute } = boundOf(sample.tolerance, dtype, one.isGradient[i]);
  const largest = data.reduce((most, x) => (Number.isFinite(x) ? Math.max(most, Math.abs(x)) : most), 0);
  const addends = isHalf(dtype) && addsHalves(one) ? layouts.mesh.size * relative * largest : 0;
  for (let k = 0; k < data.length; k++) {
    if (found.data[k] === data[k] || (Number.isNaN(found.data[k]) && Number.isNaN(data[k]))) continue;
    const allowed = 2 * (relative * Math.abs(data[k]) + ofLargest * largest + absolute) + addends;
    if (!(isFloat(dtype) && Math.abs(found.data[k] - data[k]) <= allowed))
      return `output ${i}, element ${k} is ${found.data[k]}, on one device ${data[k]}`;
  }
  return null;
}

/** Runs the cases as one program and gives what is wrong, by case; `seen` takes the names of the ops that ran. */
async function tryTogether(
  device: NativeDevice,
  mesh: Mesh,
  cases: readonly Case[],
  isEager: boolean,
  seen: Set<string>,
): Promise<string[]> {
  const { graph, parts } = join(cases, mesh);
  const overlap = (whole: Graph): Graph => overlapCollectives(whole, isEager ? { worthSeconds: 0 } : {});
  const local = runPasses(graph, [cse, simplify, dce, combineSmallSums, overlap], { verify: true });
  for (const { op } of local.nodes) seen.add(op.name);
  const found = await run(device, local, parts);
  const problems: string[] = [];
  let at = 0;
  for (const one of cases) {
    const about = `${one.name}: ${formatLayouts(one.layouts)}`;
    one.expected.forEach((expected, i) => {
      const dims = one.partitioned.outputs[i];
      const shape = localShape(mesh, expected.shape, dims);
      const values = found[at++].map((bytes) => ({
        dtype: expected.dtype,
        shape,
        data: decodeNumbers(bytes, expected.dtype),
      }));
      try {
        const problem = difference(assemble(mesh, expected, dims, values), one, i);
        if (problem) problems.push(`${about}\n    ${problem}`);
      } catch (error) {
        problems.push(`${about}\n    ${(error as Error).message}`);
      }
    });
  }
  return problems;
}

/** What is wrong, by case. Where a program of several fails as a whole each is tried by itself. */
export async function tryCases(
  device: NativeDevice,
  mesh: Mesh,
  cases: readonly Case[],
  isEager: boolean,
  seen: Set<string>,
): Promise<string[]> {
  try {
    return await tryTogether(device, mesh, cases, isEager, seen);
  } catch (error) {
    const [{ name, layouts }] = cases;
    if (cases.length === 1) return [`${name}: ${formatLayouts(layouts)}\n    ${error}`];
    const alone: string[] = [];
    for (const one of cases) alone.push(...(await tryCases(device, mesh, [one], isEager, seen)));
    return alone.length > 0 ? alone : [`${cases.length} layouts as one program: ${error}`];
  }
}
