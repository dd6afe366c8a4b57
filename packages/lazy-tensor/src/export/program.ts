import { randomBytes } from "node:crypto";
import { mkdir, readdir, readFile, rm, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import {
  apply,
  atScope,
  formatGraph,
  formatType,
  type Graph,
  LazuliError,
  type Node,
  ops,
  parseGraph,
  sameShape,
  verify,
  walkNodes,
} from "@lazuli/fx-trace";
import { FileFormatError } from "../errors.js";
import { Container } from "../fx/container.js";
import { systemReason, writeFileAtomically } from "../io/files.js";
import { SafetensorsReader, saveSafetensors } from "../io/safetensors.js";
import { Buffer, Parameter } from "../nn/parameter.js";
import { isFirstProcess } from "../runtime.js";
import { Tensor } from "../tensor.js";
import { captureProgram, type ExportTarget, type HeldTensor } from "./capture.js";
import { describe, isStructure, matchStructure, rebuild, type Structure } from "./signature.js";

/*
 * A program is a folder of two files: program.txt, the graph as text behind two lines that say what it is, and the weights
 * it names. Exporting writes the weights under a name of their own, then replaces program.txt, which makes the program
 * the current one, then drops older weights: cut off anywhere, the folder holds a whole program.
 */

/** The format that is written, and the only one that is read. */
export const PROGRAM_VERSION = 1;
const programFile = "program.txt";
const magic = "lazuli-program";
const weightsName = /^weights-[0-9a-f]{16}\.safetensors$/;

interface Held {
  readonly name: string;
  readonly kind: HeldTensor["kind"];
  readonly persistent: boolean;
  readonly requiresGrad: boolean;
}

interface Signature {
  readonly args: Structure;
  readonly result: Structure;
  /** What the graph's inputs after the arguments' tensors are, in order. */
  readonly held: readonly Held[];
  readonly weights: string;
}

/**
 * Writes the graph of one call of `module` (or a function) on `inputs`, and the weights it reads, into the folder `path`,
 * made where missing. `loadProgram` runs it without the source. Throws ExportError. As torch.export.save.
 */
export async function exportProgram(
  target: ExportTarget,
  inputs: readonly unknown[],
  path: string,
): Promise<void> {
  const { graph, held, args, result } = await captureProgram(target, inputs);
  const weights = `weights-${randomBytes(8).toString("hex")}.safetensors`;
  const signature: Signature = {
    args: describe(args, "arguments"),
    result: describe(result, "result"),
    held: [...held].map(([name, { kind, persistent, tensor }]) => ({
      name,
      kind,
      persistent,
      requiresGrad: kind === "parameter" && tensor.requiresGrad,
    })),
    weights,
  };
  const text = [
    `${magic} ${PROGRAM_VERSION}`,
    `signature ${JSON.stringify(signature)}`,
    formatGraph(graph, { maxBytes: Number.POSITIVE_INFINITY }),
  ].join("\n");
  if (isFirstProcess()) await mkdir(path, { recursive: true });
  await saveSafetensors(join(path, weights), new Map([...held].map(([name, { tensor }]) => [name, tensor])), {
    format: "pt",
  });
  if (!isFirstProcess()) return;
  await writeFileAtomically(join(path, programFile), text);
  for (const name of await readdir(path))
    if (weightsName.test(name) && name !== weights) await rm(join(path, name), { force: true });
}

/**
 * The program that exportProgram wrote into the folder `path`, as a module: its state dict has the exported module's names,
 * and its forward runs (and trains) the graph. Throws FileFormatError for another version, text that is no graph, and
 * weights that are missing or of another type. As torch.export.load.
 */
export async function loadProgram(path: string): Promise<Program> {
  const file = join(path, programFile);
  const text = await readFile(file, "utf8").catch((error) => {
    throw new FileFormatError("program", `${file}: cannot be read: ${systemReason(error)}`, "", {
      cause: error,
    });
  });
  const { signature, graph } = parseProgram(file, text);
  return new Program(signature, graph, await readWeights(path, signature, graph));
}

function parseProgram(file: string, text: string): { signature: Signature; graph: Graph } {
  const fail = (what: string, cause?: unknown): never => {
    throw new FileFormatError("program", `${file}: ${what}`, "", { cause });
  };
  const [first, second, ...rest] = text.split("\n");
  const version = /^lazuli-program (\d+)$/.exec(first.trim())?.[1];
  if (version === undefined) return fail(`no program: its first line is not "${magic} ${PROGRAM_VERSION}"`);
  if (Number(version) !== PROGRAM_VERSION)
    return fail(`is of version ${version}, this Lazuli reads version ${PROGRAM_VERSION}: export it again`);
  let signature: unknown;
  try {
    signature = JSON.parse(/^signature (.*)$/.exec(second ?? "")?.[1] ?? "");
  } catch (error) {
    fail(`line 2 is no signature: ${(error as Error).message}`, error);
  }
  if (!isSignature(signature)) return fail("line 2 is no signature");
  let graph: Graph;
  try {
    // Empty lines keep the numbers of the lines in errors those of the file.
    graph = parseGraph(`\n\n${rest.join("\n")}`);
    verify(graph);
  } catch (error) {
    if (!(error instanceof LazuliError)) throw error;
    return fail(error.detail, error);
  }
  const tensors = countTensors(signature.args);
  if (graph.inputs.length !== tensors + signature.held.length)
    fail(`its graph has ${graph.inputs.length} inputs, its signature ${tensors + signature.held.length}`);
  if (graph.outputs.length !== countTensors(signature.result))
    fail(`its graph has ${graph.outputs.length} outputs, its signature ${countTensors(signature.result)}`);
  return { signature, graph };
}

function isSignature(json: unknown): json is Signature {
  const { args, result, held, weights } = (json ?? {}) as Record<string, unknown>;
  const isHeld = (item: unknown): boolean => {
    const { name, kind, persistent, requiresGrad } = (item ?? {}) as Record<string, unknown>;
    return (
      typeof name === "string" &&
      ["parameter", "buffer", "constant"].includes(kind as string) &&
      typeof persistent === "boolean" &&
      typeof requiresGrad === "boolean"
    );
  };
  // The name is joined to a path: one outside the folder would read what is no part of the program.
  const isName = typeof weights === "string" && basename(weights) === weights && weightsName.test(weights);
  return isName && isStructure(args) && isStructure(result) && Array.isArray(held) && held.every(isHeld);
}

function countTensors(structure: Structure): number {
  if ("tensor" in structure) return 1;
  if ("array" in structure) return structure.array.reduce((sum, item) => sum + countTensors(item), 0);
  if ("object" in structure)
    return Object.values(structure.object).reduce((sum, item) => sum + countTensors(item), 0);
  return 0;
}

/** By name, what the program holds, checked against the graph before any of it is read. */
async function readWeights(
  path: string,
  { held, weights }: Signature,
  graph: Graph,
): Promise<Map<string, Tensor>> {
  const file = join(path, weights);
  const fail = (what: string): never => {
    throw new FileFormatError("program", `${file}: ${what}`);
  };
  const exists = await stat(file).then(
    () => true,
    () => false,
  );
  if (!exists) fail("the program's weights are missing");
  const reader = await SafetensorsReader.open(file);
  try {
    const missing = held.filter(({ name }) => !reader.entry(name)).map(({ name }) => name);
    if (missing.length > 0) fail(`weights are missing: ${missing.join(", ")}`);
    const nodes = graph.inputs.slice(graph.inputs.length - held.length);
    const wrong = held.flatMap(({ name }, i) => {
      const entry = reader.entry(name);
      const { type } = nodes[i];
      if (!entry || (entry.dtype === type.dtype && sameShape(entry.shape, type.shape))) return [];
      return [`${name} is ${formatType(entry)} and should be ${formatType(type)}`];
    });
    if (wrong.length > 0) fail(`weights do not fit the graph: ${wrong.join("; ")}`);
    const tensors = new Map<string, Tensor>();
    for (const { name } of held) tensors.set(name, await reader.read(name));
    return tensors;
  } finally {
    await reader.close();
  }
}

/** A loaded program. */
export class Program extends Container {
  readonly #signature: Signature;
  readonly #graph: Graph;
  readonly #held: readonly Tensor[];

  /** Made by `loadProgram`. */
  constructor(signature: Signature, graph: Graph, values: ReadonlyMap<string, Tensor>) {
    super("Program");
    this.#signature = signature;
    this.#graph = graph;
    this.#held = signature.held.map((held) => this.#hold(held, values.get(held.name) as Tensor));
  }

  /** The graph: its inputs are the arguments' tensors, then the weights. */
  get graph(): Graph {
    return this.#graph;
  }

  /** Takes and gives what the exported module did. Throws ExportError for arguments of another structure or type. */
  override forward(...args: unknown[]): unknown {
    const { args: given, result } = this.#signature;
    const tensors: Tensor[] = [];
    // Trailing arguments that were left out may be left out again.
    const expected = "array" in given ? given.array.length : 0;
    const padded = [...args, ...new Array(Math.max(expected - args.length, 0)).fill(undefined)];
    matchStructure(given, padded, "arguments", tensors);
    const outputs = runGraph(
      this.#graph,
      [...tensors, ...this.#held].map(({ node }) => node),
    );
    return rebuild(
      result,
      outputs.map((node) => new Tensor(node)),
    );
  }

  /** Puts a value where its name says, making the parts on the way. */
  #hold({ name, kind, persistent, requiresGrad }: Held, value: Tensor): Tensor {
    if (kind === "constant") return value;
    const path = name.split(".");
    const field = path.pop() as string;
    let part: Container = this;
    for (const key of path) {
      const child = part.child(key) ?? new Container("Part");
      part.holdModule(key, child);
      part = child as Container;
    }
    const tensor =
      kind === "parameter" ? new Parameter(value, { requiresGrad }) : new Buffer(value, { persistent });
    part.holdTensor(field, tensor);
    return tensor;
  }
}

/** Records the graph again on `inputs`; gives its outputs. */
export function runGraph(graph: Graph, inputs: readonly Node[]): Node[] {
  walkNodes(graph.nodes);
  const made = new Array<Node>(graph.nodes.length);
  const positions = graph.nodes.map(({ inputs: operands }) => operands.map(({ index }) => index));
  const outputs = graph.outputs.map(({ index }) => index);
  graph.nodes.forEach((node, i) => {
    made[i] =
      node.op.name === "input"
        ? inputs[node.attrs.index as number]
        : atScope(node.scope, () =>
            apply(
              node.op,
              positions[i].map((at) => made[at]),
              node.attrs,
            ),
          );
  });
  // An output that is an input is a value of its own, as what any function returns.
  return outputs.map((at) =>
    inputs.includes(made[at]) ? ops.reshape([made[at]], { shape: made[at].shape }) : made[at],
  );
}
