import { describe, expect, it } from "vitest";
import {
  applyPass,
  buildGraph,
  cse,
  dce,
  FxGraph,
  type FxNode,
  formatGraph,
  GraphError,
  getItem,
  input,
  liftGraph,
  lowerGraph,
  matchAt,
  type OpDef,
  ops,
  ShapeError,
  tensorType,
  verify,
} from "../src/index.js";
import { parseGraph } from "../src/parse.js";

const f32 = (...shape: number[]) => tensorType("float32", shape);

/** relu(x · wᵀ + b) of one layer. */
function layer(): { graph: FxGraph; x: FxNode; dot: FxNode; add: FxNode; relu: FxNode } {
  const graph = new FxGraph();
  const x = graph.placeholder("x", f32(2, 4));
  const w = graph.getAttr("fc.weight", f32(3, 4));
  const b = graph.getAttr("fc.bias", f32(3));
  const attrs = { lhs_contract: [1], rhs_contract: [1], lhs_batch: [], rhs_batch: [] };
  const dot = graph.callFunction("dot_general", [x, w], attrs, { scope: "fc" });
  const add = graph.callFunction("add", [dot, b], {}, { scope: "fc" });
  const relu = graph.callFunction("relu", [add]);
  graph.output(relu);
  return { graph, x, dot, add, relu };
}

const names = (graph: FxGraph): string => graph.nodes.map((node) => node.name).join(" ");

describe("FxGraph", () => {
  it("is a list of nodes that know their users, with derived types", () => {
    const { graph, x, dot, add } = layer();
    expect(`${graph}`).toBe(
      [
        "%x = placeholder x : float32[2, 4]",
        "%fc_weight = get_attr fc.weight : float32[3, 4]",
        "%fc_bias = get_attr fc.bias : float32[3]",
        "%dot_general = dot_general(%x, %fc_weight) {lhs_contract=[1], rhs_contract=[1], lhs_batch=[], rhs_batch=[]} : float32[2, 3]  # fc",
        "%add = add(%dot_general, %fc_bias) : float32[2, 3]  # fc",
        "%relu = relu(%add) : float32[2, 3]",
        "output %relu",
        "",
      ].join("\n"),
    );
    expect([...x.users]).toEqual([dot]);
    expect(dot.inputs.map((node) => node.name)).toEqual(["x", "fc_weight"]);
    expect(graph.findNodes({ op: "call_function", target: "add" })).toEqual([add]);
    expect(graph.findNodes({ target: ops.relu as unknown as OpDef })).toHaveLength(1);
    graph.lint();
  });

  it("gives names that are identifiers, each once", () => {
    const graph = new FxGraph();
    const x = graph.placeholder("x", f32(2));
    for (const name of ["x", "a.b", "return", "op", "2x", "x_1", "x"])
      graph.callFunction("neg", [x], {}, { name });
    expect(names(graph)).toBe("x x_1 a_b return_1 op_1 _2x x_1_1 x_2");
  });

  it("inserts before and after, in the order of making", () => {
    const { graph, add, relu } = layer();
    graph.insertingAfter(add, () => {
      graph.callFunction("neg", [add]);
      graph.callFunction("abs", [add]);
    });
    {
      using _ = graph.insertingBefore(add);
      graph.callFunction("exp", [add.inputs[0]]);
    }
    const last = graph.callFunction("tanh", [relu]);
    expect(names(graph)).toBe("x fc_weight fc_bias dot_general exp add neg abs relu tanh output");
    expect(last.scope).toBe("");
    expect(graph.findNodes({ target: "neg" })[0].scope).toBe("");
    expect(graph.findNodes({ target: "exp" })[0].scope).toBe("fc");
  });

  it("replaces uses, erases, drops what is dead", () => {
    const { graph, dot, add, relu } = layer();
    expect(() => graph.eraseNode(add)).toThrow(GraphError);
    expect(() => graph.eraseNode(add)).toThrow("add cannot be erased: relu still read it");
    const tanh = graph.insertingAfter(relu, () => graph.callFunction("tanh", [add]));
    expect(relu.replaceAllUsesWith(tanh).map((node) => node.name)).toEqual(["output"]);
    graph.eraseNode(relu);
    expect(() => graph.eraseNode(relu)).toThrow("relu is erased");
    expect(add.replaceAllUsesWith(dot, (user) => user === tanh)).toEqual([tanh]);
    expect(graph.eliminateDeadCode()).toBe(2);
    expect(names(graph)).toBe("x fc_weight dot_general tanh output");
    graph.lint();
  });

  it("keeps what draws random numbers or sets a buffer", () => {
    const { graph, x } = layer();
    graph.callFunction("random_uniform", [], { shape: [2], whole: [2], dtype: "float32" });
    graph.setAttr("seen", x);
    expect(graph.eliminateDeadCode()).toBe(0);
    graph.lint();
  });

  it("copies nodes and graphs", () => {
    const { graph, relu } = layer();
    const copy = graph.clone();
    expect(`${copy}`).toBe(`${graph}`);
    copy.eliminateDeadCode();
    copy.lint();
    const other = new FxGraph();
    const y = other.placeholder("y", f32(2, 3));
    const copied = other.nodeCopy(relu, () => y);
    expect([copied.graph, copied.type, copied.inputs]).toEqual([other, f32(2, 3), [y]]);
    const twice = new FxGraph();
    const stands = new Map(
      graph.placeholders.map((node) => [node, twice.placeholder("in", f32(2, 4))] as const),
    );
    twice.output(twice.graphCopy(graph, new Map(stands)));
    expect(names(twice)).toBe("in_1 fc_weight fc_bias dot_general add relu output");
  });

  it("keeps arguments and placeholders together", () => {
    const { graph, x } = layer();
    const first = graph.insertingBefore(x, () => graph.placeholder("mask", f32(2)));
    const last = graph.placeholder("scale");
    expect(graph.params.map(({ name }) => name)).toEqual(["mask", "x", "scale"]);
    expect(last.type).toBeNull();
    graph.eraseNode(first);
    expect(graph.params.map(({ name }) => name)).toEqual(["x", "scale"]);
    graph.lint();
  });

  it("checks ops when they are made", () => {
    const { graph, x, add } = layer();
    expect(() => graph.callFunction("add", [x, add])).toThrow(ShapeError);
    const unknown = graph.callModule("norm", [x]);
    expect([unknown.type, unknown.scope]).toEqual([null, "norm"]);
    expect(() => graph.callFunction("conv" as "add", [x])).toThrow("there is no op conv");
    expect(graph.callFunction(getItem, [unknown, "mean"]).type).toBeNull();
    expect(() => graph.output(x)).toThrow("the graph has an output already");
  });

  it.each<[string, (parts: ReturnType<typeof layer>) => void]>([
    ["add reads relu before it is made", ({ add, relu }) => add.replaceInputWith(add.inputs[0], relu)],
    ["add reads dot_general before it is made", ({ graph, dot, relu }) => graph.moveBefore(dot, relu)],
    [
      "relu has 2 inputs, relu takes 1",
      ({ relu, x }) => {
        relu.args = [relu.args[0], x];
      },
    ],
    ["dot_general has of, which is no attribute", ({ dot }) => dot.setAttr("of", 1)],
    [
      "relu reads y, a node of another graph",
      ({ relu }) => {
        relu.args = [new FxGraph().placeholder("y")];
      },
    ],
    ["the graph has no output", ({ graph }) => graph.eraseNode(graph.outputNode as FxNode)],
    ["no argument gives the placeholder x", ({ graph }) => void graph.params.pop()],
    [
      "output is followed by neg",
      ({ graph, relu }) => {
        const neg = graph.callFunction("neg", [relu]);
        graph.moveBefore(graph.outputNode as FxNode, neg);
      },
    ],
  ])("lint: %s", (message, spoil) => {
    const parts = layer();
    spoil(parts);
    expect(() => parts.graph.lint()).toThrow(GraphError);
    expect(() => parts.graph.lint()).toThrow(message);
  });
});

describe("pictures", () => {
  it("shows a table", () => {
    const lines = layer().graph.tabular().split("\n");
    expect(lines[0]).toMatch(/^opcode +name +target +args +attrs +type$/);
    expect(lines[6]).toMatch(/^call_function +add +add +\(dot_general, fc_bias\) +float32\[2, 3\]$/);
  });

  it("shows Graphviz and Mermaid, grouped by module", () => {
    const { graph } = layer();
    graph.insertingAfter(graph.nodes[4], () => graph.callModule("blocks.0.norm", [graph.nodes[4]]));
    expect(graph.toDot()).toContain(
      '  subgraph cluster_0 {\n    label="fc";\n    n3 [label="dot_general\\nfloat32[2, 3]"];',
    );
    expect(graph.toMermaid()).toBe(`flowchart TD
  n0(["x<br>float32[2, 4]"])
  n1[("fc_weight: fc.weight<br>float32[3, 4]")]
  n2[("fc_bias: fc.bias<br>float32[3]")]
  n6["relu<br>float32[2, 3]"]
  n7((("output")))
  subgraph s0["fc"]
    n3["dot_general<br>float32[2, 3]"]
    n4["add<br>float32[2, 3]"]
  end
  subgraph s1["blocks.0"]
    n5[["blocks_0_norm: blocks.0.norm"]]
  end
  n0 --> n3
  n1 --> n3
  n3 --> n4
  n2 --> n4
  n4 --> n5
  n4 --> n6
  n6 --> n7
`);
  });
});

describe("core graphs", () => {
  const program = `
    %0 = input() {index=0, shape=[2, 3], dtype=float32} : float32[2, 3]
    %1 = exp(%0) : float32[2, 3]
    %2 = exp(%0) : float32[2, 3]  # a.b
    %3 = add(%1, %2) : float32[2, 3]
    %4 = topk(%3) {k=2, dim=1, largest=true} : (float32[2, 2], int32[2, 2])
    %5 = result(%4) {index=1} : int32[2, 2]
    outputs %3, %5
  `;

  it("are lifted and lowered", () => {
    const graph = parseGraph(program);
    const lifted = liftGraph(graph);
    lifted.lint();
    expect(names(lifted)).toBe("input exp exp_1 add topk result output");
    const lowered = lowerGraph(lifted);
    verify(lowered.graph);
    expect(formatGraph(lowered.graph)).toBe(formatGraph(graph));
  });

  it("their passes apply, and put back what the graph's ends are", () => {
    const { graph, x } = layer();
    graph.params[0] = { name: "in", value: { deep: [x] } };
    graph.setAttr("seen", x);
    const merged = applyPass(graph, (core) => dce(cse(core)));
    merged.lint();
    expect(merged.params).toEqual([{ name: "in", value: { deep: [merged.placeholders[0]] } }]);
    expect(names(merged)).toBe("x fc_weight fc_bias dot_general add relu set_seen output");
    expect(merged.node("dot_general").scope).toBe("fc");
    expect(() => merged.node("none")).toThrow("there is no node none");
  });

  it("draws of the step's key get one key and streams in order", () => {
    const graph = new FxGraph();
    const draw = () => graph.callFunction("random_uniform", [], { shape: [2], whole: [2], dtype: "float32" });
    graph.output([draw(), draw()]);
    const lowered = lowerGraph(graph);
    expect(lowered.inputs).toEqual([{ kind: "random_key" }]);
    expect(lowered.graph.outputs.map((node) => node.attrs.stream)).toEqual([0, 1]);
    const back = liftGraph(lowered.graph, lowered);
    expect(`${back}`).toBe(`${graph}`);
  });

  it("refuse what only the module above knows", () => {
    const { graph, x } = layer();
    graph.callModule("norm", [x]);
    expect(() => lowerGraph(graph)).toThrow("norm calls norm: inline called modules first");
    const open = new FxGraph();
    open.output(open.placeholder("x"));
    expect(() => lowerGraph(open)).toThrow("the type of x is not known");
  });
});

describe("matchAt", () => {
  const options = { sameAttr: () => false, sameModule: () => false };
  const graphOf = (fn: (x: FxNode, y: FxNode, graph: FxGraph) => unknown): FxGraph => {
    const graph = new FxGraph();
    const [x, y] = [graph.placeholder("x", f32(2)), graph.placeholder("y", f32(2))];
    graph.output(fn(x, y, graph));
    return graph;
  };
  const call = (graph: FxGraph, name: keyof typeof ops, ...args: FxNode[]): FxNode =>
    graph.callFunction(name, args);

  it("finds operands of commutative ops swapped, not of others", () => {
    const pattern = (name: "add" | "sub"): FxGraph =>
      graphOf((x, y, g) => call(g, name, call(g, "exp", x), y));
    const target = graphOf((x, y, g) => [
      call(g, "add", x, call(g, "exp", y)),
      call(g, "sub", x, call(g, "exp", y)),
    ]);
    const map = matchAt(pattern("add"), target.node("add"), options);
    expect([...(map as Map<FxNode, FxNode>).values()].map((node) => node.name).sort()).toEqual([
      "add",
      "exp",
      "x",
      "y",
    ]);
    expect(matchAt(pattern("sub"), target.node("sub"), options)).toBeNull();
  });

  it("leaves alone what is read in between from outside", () => {
    const pattern = graphOf((x, y, g) => call(g, "add", call(g, "exp", x), y));
    const target = graphOf((x, y, g) => {
      const exp = call(g, "exp", x);
      return [call(g, "add", exp, y), exp];
    });
    expect(matchAt(pattern, target.node("add"), options)).toBeNull();
  });

  it("takes several results, found apart, and compares attributes", () => {
    const draws = (value: number): FxGraph =>
      graphOf((x, y, g) => {
        const half = g.callFunction("full", [], { value, shape: [], dtype: "float32" });
        return [call(g, "mul", x, half), call(g, "exp", y)];
      });
    expect(matchAt(draws(0.5), draws(0.5).node("mul"), options)?.size).toBe(5);
    expect(matchAt(draws(0.5), draws(0.25).node("mul"), options)).toBeNull();
    expect(matchAt(draws(0.5), draws(0.25).node("mul"), { ...options, structureOnly: true })?.size).toBe(5);
  });

  it("takes the same value twice only where the pattern does", () => {
    const pattern = graphOf((x, y, g) => call(g, "mul", call(g, "exp", x), call(g, "exp", y)));
    const target = graphOf((x, _, g) => {
      const exp = call(g, "exp", x);
      return call(g, "mul", exp, exp);
    });
    expect(matchAt(pattern, target.node("mul"), options)).toBeNull();
  });
});

it("a graph that is built and one that is recorded are one kind", () => {
  const core = buildGraph(() => ops.exp([input([], { index: 0, shape: [2], dtype: "float32" })], {}));
  expect(`${liftGraph(core)}`).toBe(
    "%input = placeholder input : float32[2]\n%exp = exp(%input) : float32[2]\noutput %exp\n",
  );
});
