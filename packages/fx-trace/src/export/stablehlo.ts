import { UnsupportedOpError } from "../errors.js";
import { type Graph, walkNodes } from "../graph.js";
import type { Node } from "../node.js";
import { runPasses } from "../passes/pass.js";
import { standardPasses } from "../passes/standard.js";
import { type HloRule, hloRules } from "./hlo_rules.js";
import { type Hlo, HloWriter, hloType } from "./hlo_writer.js";

export interface StableHloOptions {
  /** Names of the arguments, for who reads the text. */
  readonly inputNames?: readonly string[];
  /** Of the module. Default `lazuli`. */
  readonly name?: string;
}

const rules = hloRules as Readonly<Record<string, HloRule | null>>;

const quoted = (text: string): string => `"${text.replace(/[^\x20-\x7e]|["\\]/g, "_")}"`;

/**
 * The graph as StableHLO text: one function `main` of the graph's inputs and outputs, for XLA, IREE and others. Composites
 * and fused kernels are written in smaller ops; erf and inverse trigonometric functions are of the CHLO dialect, which
 * comes with StableHLO. Each line carries its module path as a location. An index out of range is clamped, as XLA does,
 * where a run of Lazuli's would fail. Throws UnsupportedOpError naming every op without a counterpart (random draws,
 * collectives) and where it is.
 */
export function toStableHLO(graph: Graph, { inputNames, name = "lazuli" }: StableHloOptions = {}): string {
  const lowered = runPasses(
    graph,
    standardPasses(() => false),
  );
  const isWritten = (node: Node): boolean =>
    ["input", "result"].includes(node.op.name) || (rules[node.op.name] ?? null) !== null;
  const missing = lowered.nodes.filter((node) => !isWritten(node));
  if (missing.length > 0) throw new UnsupportedOpError("toStableHLO", "StableHLO", missing);

  walkNodes(lowered.nodes);
  const h = new HloWriter();
  const values: (readonly Hlo[])[] = [];
  const args = lowered.inputs.map((node, i): Hlo => {
    const arg = { name: `%arg${i}`, shape: node.shape, dtype: node.dtype };
    values[node.index] = [arg];
    return arg;
  });
  const valueOfNode = (node: Node): Hlo => values[node.index][0];
  for (const node of lowered.nodes) {
    if (node.op.name === "input") continue;
    if (node.op.name === "result") {
      values[node.index] = [values[node.inputs[0].index][node.attrs.index as number]];
      continue;
    }
    h.location = node.scope ? ` loc(${quoted(node.scope)})` : "";
    const written = (rules[node.op.name] as HloRule)(h, node, node.inputs.map(valueOfNode));
    values[node.index] = Array.isArray(written) ? written : [written as Hlo];
  }
  const outputs = lowered.outputs.map(valueOfNode);
  const parameters = args.map((arg, i) => {
    const label = inputNames?.[i] ? ` loc(${quoted(inputNames[i])})` : "";
    return `${arg.name}: ${hloType(arg)}${label}`;
  });
  const types = outputs.map(hloType).join(", ");
  return [
    `module @${name.replace(/\W/g, "_")} {`,
    `  func.func public @main(${parameters.join(", ")}) -> (${types}) {`,
    ...h.lines,
    `    return${outputs.length > 0 ? ` ${outputs.map((value) => value.name).join(", ")} : ${types}` : ""}`,
    "  }",
    "}",
    "",
  ].join("\n");
}
