import { describe, expect, it } from "vitest";
import {
  buildGraph,
  cse,
  dce,
  decompose,
  foldGradScale,
  formatGraph,
  GraphError,
  input,
  type OpDef,
  ops,
  type Pass,
  rewrite,
  runPasses,
  standardPasses,
  verify,
} from "../src/index.js";
import { defineOp } from "../src/opdef.js";
import { graphOf, passed, passTest } from "./graph_text.js";

const check =
  (pass: Pass) =>
  (inputs: string, before: string, after: string): void => {
    const { got, wanted } = passTest(pass)(inputs, before, after);
    expect(got).toBe(wanted);
  };

describe("dce", () => {
  it("keeps what outputs need, and every input", () => {
    const graph = graphOf(
      "%a float32[2]; %b float32[2]",
      "%c = neg(%a)\n%d = exp(%c)\n%e = abs(%c)\noutputs %e, %e",
    );
    const after = dce(graph);
    verify(after);
    expect(formatGraph(after)).toBe(
      formatGraph(graphOf("%a float32[2]; %b float32[2]", "%c = neg(%a)\n%e = abs(%c)\noutputs %e, %e")),
    );
    expect(dce(after)).toBe(after);
  });

  it("keeps an op of several results for any of them", () => {
    const graph = graphOf(
      "%a float32[2]",
      "%s = sort(%a) {dim=0, descending=false}\n%v = result(%s) {index=0}\n%i = result(%s) {index=1}\noutputs %i",
    );
    expect(dce(graph).nodes.map((node) => node.op.name)).toEqual(["input", "sort", "result"]);
  });
});

describe("cse", () => {
  const merged = check(cse);

  it("merges equal calls of equal operands, in chains", () => {
    merged(
      "%a float32[2]; %b float32[2]",
      "%c = sub(%a, %b)\n%d = sub(%a, %b)\n%e = exp(%c)\n%f = exp(%d)\n%g = mul(%e, %f)\noutputs %g, %d",
      "%c = sub(%a, %b)\n%e = exp(%c)\n%g = mul(%e, %e)\noutputs %g, %c",
    );
  });

  it("knows which ops commute", () => {
    merged(
      "%a float32[2]; %b float32[2]",
      "%c = add(%a, %b)\n%d = add(%b, %a)\noutputs %c, %d",
      "%c = add(%a, %b)\noutputs %c, %c",
    );
    const ordered = "%c = sub(%a, %b)\n%d = sub(%b, %a)\noutputs %c, %d";
    merged("%a float32[2]; %b float32[2]", ordered, ordered);
  });

  it("compares attributes to the bit", () => {
    const full = (name: string, value: string): string =>
      `${name} = full() {value=${value}, shape=[2], dtype=float32}\n`;
    merged(
      "%a bool[]",
      `${full("%b", "NaN")}${full("%c", "NaN")}outputs %b, %c`,
      `${full("%b", "NaN")}outputs %b, %b`,
    );
    const zeros = `${full("%b", "0")}${full("%c", "-0")}outputs %b, %c`;
    merged("%a bool[]", zeros, zeros);
    const bytes = (name: string, data: string): string =>
      `${name} = constant() {shape=[34], dtype=uint8, data=0x${data}}\n`;
    const [one, other] = ["07".repeat(34), `${"07".repeat(33)}08`];
    merged(
      "%a bool[]",
      `${bytes("%b", one)}${bytes("%c", one)}outputs %b, %c`,
      `${bytes("%b", one)}outputs %b, %b`,
    );
    const differ = `${bytes("%b", one)}${bytes("%c", other)}outputs %b, %c`;
    merged("%a bool[]", differ, differ);
    const sums =
      "%b = sum(%a) {dims=[0], keepdim=false}\n%c = sum(%a) {dims=[1], keepdim=false}\noutputs %b, %c";
    merged("%a float32[2, 2]", sums, sums);
  });

  it("never merges random draws", () => {
    const draw = (name: string): string =>
      `${name} = random_uniform(%k) {stream=0, shape=[2], whole=[2], dtype=float32}\n`;
    const lines = `${draw("%a")}${draw("%b")}outputs %a, %b`;
    merged("%k int64[2]", lines, lines);
  });
});

describe("decompose", () => {
  it("replaces composites and what the device lacks, in place of each result", () => {
    const pass = decompose((op) => op.name !== "rms_norm_grad");
    const graph = graphOf(
      "%x float32[4, 8]; %w float32[8]; %g float32[4, 8]",
      `%n = rms_norm_grad(%x, %w, %g) {eps=1e-5}  # norm
       %dw = result(%n) {index=1}
       %dx = result(%n) {index=0}
       %s = softmax(%dx)
       %m = mean(%s) {dims=[0], keepdim=false}  # loss
       outputs %m, %dw`,
    );
    const after = dce(pass(graph));
    verify(after);
    const names = after.nodes.map((node) => node.op.name);
    expect(names).toContain("softmax");
    expect(names).not.toContain("mean");
    expect(names).not.toContain("rms_norm_grad");
    expect(names).not.toContain("result");
    expect(new Set(after.nodes.map((node) => node.scope))).toEqual(new Set(["", "norm", "loss"]));
    expect(after.outputs.map((node) => node.shape)).toEqual([[8], [8]]);
    expect(pass(after)).toBe(after);
  });

  it("goes down as far as needed", () => {
    const inner = defineOp({
      name: "inner",
      attrs: {},
      arity: 1,
      lower: "composite",
      type: ([x]) => x.type,
      decompose: ([x]) => [ops.neg([x])],
    });
    const pair = defineOp({
      name: "pair",
      attrs: {},
      arity: 1,
      results: 2,
      lower: "kernel",
      type: ([x]) => [x.type, x.type],
      decompose: ([x]) => [inner([x]), x],
    });
    const outer = defineOp({
      name: "outer",
      attrs: {},
      arity: 1,
      lower: "composite",
      type: ([x]) => x.type,
      decompose: ([x]) => {
        const both = pair([x]);
        return [ops.add([ops.result([both], { index: 0 }), ops.result([both], { index: 1 })])];
      },
    });
    const graph = buildGraph(() => outer([input([], { index: 0, shape: [2], dtype: "float32" })]));
    expect(
      passed(
        decompose(() => false),
        graph,
      ),
    ).toBe(formatGraph(graphOf("%x float32[2]", "%a = neg(%x)\n%y = add(%a, %x)\noutputs %y")));
    const kept = decompose((op) => op.name === "pair")(graph).nodes.map((node) => node.op.name);
    expect(kept).toEqual(["input", "pair", "result", "result", "add"]);
  });

  it("refuses a decomposition of another type", () => {
    const wrong = defineOp({
      name: "wrong",
      attrs: {},
      arity: 1,
      lower: "composite",
      type: ([x]) => x.type,
      decompose: ([x]) => [ops.sum([x], { dims: [0], keepdim: false })],
    });
    const graph = buildGraph(() => wrong([input([], { index: 0, shape: [2], dtype: "float32" })]));
    expect(() => decompose(() => true)(graph)).toThrow(
      new GraphError("wrong", "decomposes to float32[], but its results are float32[2]"),
    );
  });
});

describe("foldGradScale", () => {
  const folded = check(foldGradScale);
  const inputs =
    "%p float32[4]; %g float32[4]; %m float32[4]; %v float32[4]; %lr float32[]; %t float32[]; %s float32[]";
  const attrs = "{beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01, decoupled=true}";
  const update = (g: string, scale = ""): string =>
    `%u = adamw_update(%p, ${g}, %m, %v, %lr, %t${scale}) ${attrs}\n%q = result(%u) {index=0}`;

  it("gives the scale to the update", () => {
    const after = `${update("%g", ", %s")}\noutputs %q`;
    folded(inputs, `%h = mul(%g, %s)\n${update("%h")}\noutputs %q`, after);
    folded(inputs, `%h = mul(%s, %g)\n${update("%h")}\noutputs %q`, after);
    folded(inputs, `%b = broadcast_to(%s) {shape=[4]}\n%h = mul(%g, %b)\n${update("%h")}\noutputs %q`, after);
    const half = (shape: string): string => `%c = full() {value=0.5, shape=${shape}, dtype=float32}\n`;
    folded(
      inputs,
      `${half("[4]")}%h = mul(%g, %c)\n${update("%h")}\noutputs %q`,
      `${half("[]")}${update("%g", ", %c")}\noutputs %q`,
    );
  });

  it("gives several scales as their product", () => {
    folded(
      `${inputs}; %r float32[]`,
      `%h = mul(%g, %s)\n%i = mul(%h, %r)\n${update("%i")}\noutputs %q`,
      `%f = mul(%r, %s)\n${update("%g", ", %f")}\noutputs %q`,
    );
  });

  it("works behind another update", () => {
    const second = (g: string, scale = ""): string =>
      `%w = adamw_update(%q, ${g}, %m, %v, %lr, %t${scale}) ${attrs}\n%z = result(%w) {index=0}\noutputs %z`;
    folded(
      inputs,
      `%h = mul(%g, %s)\n${update("%h")}\n%i = exp(%q)\n%j = mul(%i, %s)\n${second("%j")}`,
      `${update("%g", ", %s")}\n%i = exp(%q)\n${second("%i", ", %s")}`,
    );
  });

  it("leaves scaled gradients that are read elsewhere, and other products", () => {
    const kept = (lines: string): void => folded(`${inputs}; %k float32[4]`, lines, lines);
    kept(`%h = mul(%g, %s)\n${update("%h")}\noutputs %q, %h`);
    kept(`%h = mul(%g, %s)\n${update("%h")}\n%n = neg(%h)\noutputs %q, %n`);
    kept(`%h = mul(%g, %k)\n${update("%h")}\noutputs %q`);
    kept(`${update("%g", ", %s")}\noutputs %q`);
  });

  it("multiplies a scale that the update has", () => {
    const before = (scale: string): string => `%h = mul(%g, %s)\n${update("%h", scale)}\noutputs %q`;
    folded(
      `${inputs}; %r float32[]`,
      before(", %r"),
      `%f = mul(%r, %s)\n${update("%g", ", %f")}\noutputs %q`,
    );
    const one = "%one = full() {value=1, shape=[], dtype=float32}\n";
    folded(
      `${inputs}; %b bool[]`,
      `${one}${before(", %one, %b")}`,
      `${update("%g", ", %s, %b")}\noutputs %q`,
    );
  });

  it("works where reductions read the scaled gradient too", () => {
    const norm = "%n = square(%h)\n%z = sum(%n) {dims=[0], keepdim=false}\n";
    const test = "%f = isfinite(%h)\n%y = min(%f) {dims=[0], keepdim=false}\n";
    folded(
      inputs,
      `%h = mul(%g, %s)\n${norm}${test}${update("%h")}\noutputs %q, %z, %y`,
      `%h = mul(%g, %s)\n${norm}${test}${update("%g", ", %s")}\noutputs %q, %z, %y`,
    );
    const shown = `%h = mul(%g, %s)\n${norm}%f = isfinite(%h)\n${update("%h")}\noutputs %q, %z, %f`;
    folded(inputs, shown, shown);
  });

  it("gives a half gradient as it is, but a product's in float32", () => {
    const half = inputs.replace("%g float32", "%g bfloat16");
    const cast = "{dtype=float32}";
    folded(
      half,
      `%h = cast(%g) ${cast}\n%i = mul(%h, %s)\n${update("%i")}\noutputs %q`,
      `${update("%g", ", %s")}\noutputs %q`,
    );
    const dot = "{lhs_contract=[0], rhs_contract=[0], lhs_batch=[], rhs_batch=[]}";
    const product = `%d = dot_general(%x, %g) ${dot}\n%h = cast(%d) ${cast}\n${update("%h")}\noutputs %q`;
    folded(`${half}; %x bfloat16[4, 4]`, product, product);
  });
});

describe("rewrite", () => {
  it("shares what did not change and replaces what reads a replacement", () => {
    const graph = graphOf(
      "%a float32[2]; %b float32[2]",
      "%c = neg(%a)\n%d = exp(%b)\n%e = add(%c, %d)  # m\noutputs %e",
    );
    const after = rewrite(graph, { exp: (node, [x]) => (node.scope === "" ? ops.abs([x]) : null) });
    expect(formatGraph(after)).toBe(
      formatGraph(
        graphOf(
          "%a float32[2]; %b float32[2]",
          "%c = neg(%a)\n%d = abs(%b)\n%e = add(%c, %d)  # m\noutputs %e",
        ),
      ),
    );
    expect(after.nodes[2]).toBe(graph.nodes[2]);
    expect(after.nodes[4]).not.toBe(graph.nodes[4]);
  });

  it("puts replacements in the scope of what they replace", () => {
    const graph = graphOf("%a float32[2]", "%b = exp(%a)  # layers.1\noutputs %b");
    expect(rewrite(graph, { exp: (_, [x]) => ops.abs([x]) }).outputs[0].scope).toBe("layers.1");
  });

  it("refuses a replacement of another type", () => {
    const graph = graphOf("%a float32[2]", "%b = exp(%a)  # m\noutputs %b");
    const rule = () => ops.full([], { value: 1, shape: [], dtype: "float32" });
    expect(() => rewrite(graph, { exp: rule })).toThrow(
      new GraphError("exp", "replaced a value of float32[2] by one of float32[]", "m"),
    );
  });
});

describe("runPasses", () => {
  const graph = graphOf("%a float32[2]", "%b = neg(%a)\n%c = neg(%a)\noutputs %b, %c");

  it("runs passes in order and reports each", () => {
    const seen: string[] = [];
    const after = runPasses(graph, [cse, dce], {
      verify: true,
      onPass: ({ name, before, graph, wallMs }) => {
        seen.push(`${name} ${before.nodes.length} -> ${graph.nodes.length}`);
        expect(wallMs).toBeGreaterThanOrEqual(0);
      },
    });
    expect(seen).toEqual(["cse 3 -> 2", "dce 2 -> 2"]);
    expect(after.outputs[0]).toBe(after.outputs[1]);
  });

  it("checks what a pass made when asked", () => {
    const breaks: Pass = (graph) => ({ ...graph, nodes: graph.nodes.slice(0, 1) });
    expect(() => runPasses(graph, [breaks])).not.toThrow();
    expect(() => runPasses(graph, [breaks], { verify: true })).toThrow(GraphError);
  });
});

describe("standardPasses", () => {
  it("leaves only ops the device has", () => {
    const graph = graphOf(
      "%x float32[2, 3, 8]; %w float32[8]; %y float32[2, 3, 8]",
      `%h = rms_norm(%x, %w) {eps=1e-5}
       %s = softmax(%h)
       %d = detach(%s)
       %l = logsumexp(%d) {dims=[0, 2], keepdim=false}
       %m = mean(%l) {dims=[0], keepdim=false}
       outputs %m`,
    );
    const supports = (op: OpDef): boolean => op.lower !== "kernel";
    const after = runPasses(graph, standardPasses(supports), { verify: true });
    for (const node of after.nodes) {
      expect(["elementwise", "reduction", "source", "leaf", "view"]).toContain(node.op.lower);
      expect(node.op.name).not.toBe("detach");
    }
  });

  it("takes time in proportion to the graph", () => {
    const graph = buildGraph(() => {
      let x = input([], { index: 0, shape: [4, 4], dtype: "float32" });
      for (let i = 0; i < 2500; i++) {
        const scale = ops.full([], { value: i, shape: [], dtype: "float32" });
        x = ops.add([ops.transpose([x], { perm: [1, 0] }), ops.mul([ops.exp([x]), scale])]);
      }
      return x;
    });
    const before = process.cpuUsage();
    runPasses(
      graph,
      standardPasses(() => true),
    );
    const cpuMs = process.cpuUsage(before).user / 1000;
    // Some 50 ms, cold; what is refused here is a pass that is quadratic.
    expect(cpuMs).toBeLessThan(1000);
  });
});
