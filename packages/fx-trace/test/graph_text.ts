import { dce, formatGraph, type Graph, type Pass, verify } from "../src/index.js";
import { parseGraph } from "../src/parse.js";

/** Lines of `input` nodes, in order, from `%x float32[2, 3]; %i int64[2]`. */
function inputLines(declared: string): string[] {
  return declared.split(";").map((each, index) => {
    const match = /^(%\w+) (\w+)(\[.*\])$/.exec(each.trim());
    if (!match) throw new Error(`not an input: ${each}`);
    return `${match[1]} = input() {index=${index}, shape=${match[3]}, dtype=${match[2]}}`;
  });
}

/** A graph from its inputs and its other lines. */
export const graphOf = (inputs: string, lines: string): Graph =>
  parseGraph([...inputLines(inputs), ...lines.split("\n")].join("\n"));

/** What `pass` makes of a graph, without what became dead, checked. */
export function passed(pass: Pass, graph: Graph): string {
  const after = dce(pass(graph));
  verify(after);
  return formatGraph(after);
}

/** A function that runs `pass` over `inputs` and `lines`, and the text it should have given. */
export const passTest =
  (pass: Pass) =>
  (inputs: string, before: string, after: string): { got: string; wanted: string } => ({
    got: passed(pass, graphOf(inputs, before)),
    wanted: formatGraph(graphOf(inputs, after)),
  });
