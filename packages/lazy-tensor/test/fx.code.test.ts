import ts from "typescript";
import { beforeEach, describe, expect, it } from "vitest";
import * as lazuli from "../src/index.js";
import {
  configure,
  F,
  fx,
  manualSeed,
  nn,
  noGrad,
  randn,
  sync,
  type Tensor,
  TraceError,
  tensor,
  zeros,
} from "../src/index.js";

beforeEach(() => {
  configure({ device: "cpu", verifyPasses: true });
  manualSeed(3);
});

type Forward = (self: fx.GraphModule, ...args: unknown[]) => unknown;

/** What the code exports, compiled as a user's build would. */
function evaluate(code: string): Forward {
  const { outputText, diagnostics } = ts.transpileModule(code, {
    reportDiagnostics: true,
    compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.CommonJS },
  });
  expect(diagnostics).toEqual([]);
  const exports: { forward?: Forward } = {};
  new Function("require", "exports", outputText)(() => lazuli, exports);
  return exports.forward as Forward;
}

class Model extends nn.Module {
  readonly lin = new nn.Linear(4, 4);
  readonly drop = new nn.Dropout(0.5);
  readonly attn = new nn.SelfAttention({ dim: 4, heads: 2 });
  readonly mean = new nn.Buffer(zeros([4]));
  readonly mask = tensor([1, 0, 1, 0]);
  forward(x: Tensor, { a, k }: { a: Tensor; k: number }, mode: string): unknown {
    const y = this.drop.forward(this.lin.forward(x)).mul(this.mask);
    noGrad(() => {
      this.mean.mul_(0.9).add_(y.mean([0, 1]).mul(0.1));
    });
    const z = F.dropout(this.attn.forward(y), 0.1)
      .add(tensor([1, 2, 3, -0]))
      .mul(this.mean);
    return { z, rest: [noGrad(() => z.exp()), k, a, mode, null], top: y.topk(2), "size of": 2 * x.shape[0] };
  }
}

describe("code", () => {
  it("reads as TypeScript", () => {
    const traced = fx.symbolicTrace(
      (x: Tensor, w: { up: Tensor }) => F.linear(x, w.up).relu().reshape([-1]),
      {
        exampleInputs: [fx.spec([2, 4]), { up: fx.spec([3, 4]) }],
        dynamic: { x: { 0: "batch" } },
      },
    );
    expect(traced.code).toBe(`import { fx, type Tensor } from "@lazuli/lazy-tensor";

const { op } = fx;

/** GraphModule, traced. */
export function forward(self: fx.GraphModule, x: Tensor, w: { up: Tensor }) {
  const w_up = w.up;
  const batch = x.shape[0];
  const dot_general = op.dot_general(x, w_up, { lhs_contract: [1], rhs_contract: [1], lhs_batch: [], rhs_batch: [] });
  const relu = op.relu(dot_general);
  const reshape = op.reshape(relu, { shape: [3*batch] });
  return reshape;
}
`);
  });

  it.each([
    ["with leaves", undefined, undefined],
    ["inlined", [] as [], undefined],
    ["with symbolic dims", undefined, { 0: "batch" }],
    ["inlined, with symbolic dims", [] as [], { 0: "batch", 1: "seq" }],
  ])("rebuilds the graph and computes the same, %s", async (_, leafModules, dynamic) => {
    const model = new Model();
    const exampleInputs = [fx.spec([2, 3, 4]), { a: fx.spec([2, 3]), k: 3 }];
    const options = { exampleInputs, concreteArgs: { mode: "q" }, dynamic };
    const traced = fx.symbolicTrace(model, { ...options, leafModules });
    const forward = evaluate(traced.code);
    const again = fx.symbolicTrace(
      (x: Tensor, { a, k }: { a: Tensor; k: number }, mode: string) => forward(traced, x, { a, k }, mode),
      { ...options, root: traced },
    );
    expect(`${again.graph}`).toBe(`${traced.graph}`);
    const given = [randn([2, 3, 4]), { a: randn([2, 3]), k: 3 }, "q"] as const;
    await sync();
    const run = async (fn: () => unknown): Promise<unknown> => {
      manualSeed(4);
      return ((fn() as { rest: Tensor[] }).rest[0] as Tensor).array();
    };
    const wanted = await run(() => traced.forward(...given));
    noGrad(() => model.mean.fill_(0));
    expect(await run(() => forward(traced, ...given))).toEqual(wanted);
  });

  it("places errors, and leaves the module path as it was", () => {
    const traced = fx.symbolicTrace(new nn.Sequential(new nn.Linear(4, 4)), {
      exampleInputs: [fx.spec([2, 4])],
      leafModules: [],
    });
    const forward = evaluate(traced.code);
    expect(() => forward(traced, randn([2, 5]))).toThrow(/\[dot_general\].*\(in 0\)/);
    expect(randn([2]).neg().node.scope).toBe("");
  });

  it("refuses what cannot be written down", () => {
    class Odd extends nn.Module {
      forward(x: Tensor, fn: (x: Tensor) => Tensor): Tensor {
        return fn(x);
      }
    }
    const odd = new Odd();
    const traced = fx.symbolicTrace((x: Tensor) => odd.forward(x, (y) => y.neg()), {
      exampleInputs: [fx.spec([2])],
      leafModules: [Odd],
    });
    expect(() => traced.code).toThrow(TraceError);
    expect(() => traced.code).toThrow("_module0 has an argument that cannot be written down: the function");
  });
});
