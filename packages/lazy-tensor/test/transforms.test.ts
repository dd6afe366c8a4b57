import { describe, expect, it } from "vitest";
import {
  bernoulli,
  compile,
  F,
  functionalCall,
  fx,
  GradError,
  grad,
  hessian,
  jacfwd,
  jacrev,
  jvp,
  manualSeed,
  nn,
  noGrad,
  ones,
  rand,
  randn,
  type Shape,
  ShapeError,
  stack,
  sync,
  type Tensor,
  TensorError,
  tensor,
  ValueError,
  valueAndGrad,
  vjp,
  vmap,
} from "../src/index.js";

const f64 = (shape: Shape): Tensor => randn(shape, { dtype: "float64" });

async function expectSame(found: Tensor, wanted: Tensor, tolerance = 1e-12): Promise<void> {
  expect(found.shape).toEqual(wanted.shape);
  expect(found.dtype).toBe(wanted.dtype);
  const [a, b] = [await found.data(), await wanted.data()];
  for (let i = 0; i < b.length; i++)
    expect(Math.abs(Number(a[i]) - Number(b[i]))).toBeLessThanOrEqual(tolerance);
}

/** By example: `fn` of the i-th slice of each tensor. */
const loop = (fn: (...xs: Tensor[]) => Tensor, ...xs: Tensor[]): Tensor =>
  stack(Array.from({ length: xs[0].shape[0] }, (_, i) => fn(...xs.map((x) => x.narrow(0, i, 1).squeeze(0)))));

/** A function that uses much: matmul, broadcasting, softmax, attention and layer norm, of x [T, D]. */
function network(w: Tensor): (x: Tensor) => Tensor {
  const [D] = w.shape;
  return (x) => {
    const h = x.matmul(w).tanh();
    const heads = h.reshape([1, x.shape[0], 2, D / 2]).transpose(1, 2);
    const y = F.scaledDotProductAttention(heads, heads, heads.mul(0.5), { causal: true });
    const joined = y.transpose(1, 2).reshape(x.shape);
    return F.layerNorm(x.add(joined), w.sum(0), w.mean(1)).softmax(-1);
  };
}

describe("vmap", () => {
  it("of a network equals a loop", async () => {
    const w = f64([6, 6]);
    const x = f64([3, 4, 6]);
    await expectSame(vmap(network(w))(x), loop(network(w), x));
  });

  it("takes batch dims anywhere, shared arguments, and puts the result's where it is asked for", async () => {
    const a = f64([4, 3, 5]);
    const b = f64([5, 2]);
    const fn = (x: Tensor, y: Tensor): Tensor => x.matmul(y);
    const found = vmap(fn, { inAxes: [1, null], outAxes: -1 })(a, b);
    await expectSame(found, loop((x) => x.matmul(b), a.transpose(0, 1)).permute([1, 2, 0]));
  });

  it("keeps structures, and shares what does not depend on the batch", async () => {
    const x = f64([3, 2]);
    const w = f64([2]);
    const fn = (batch: { x: Tensor; scale: number }, weights: Tensor[]) => ({
      y: batch.x.mul(weights[0]).mul(batch.scale),
      both: [weights[0].sum(), batch.x.sum()],
    });
    const found = vmap(fn, { inAxes: [0, [null]], outAxes: { y: 0, both: [null, 0] } })({ x, scale: 3 }, [w]);
    await expectSame(found.y, x.mul(w).mul(3));
    await expectSame(found.both[0], w.sum());
    await expectSame(found.both[1], x.sum(1));
    const spreadOut = vmap((_: Tensor) => w)(x);
    expect(spreadOut.shape).toEqual([3, 2]);
  });

  it("of vmap maps over two dims", async () => {
    const a = f64([3, 5]);
    const b = f64([4, 5]);
    const dots = vmap((x: Tensor) => vmap((y: Tensor) => x.mul(y).sum())(b))(a);
    await expectSame(dots, a.matmul(b.transpose(0, 1)));
  });

  it("of grad gives the gradient of every example", async () => {
    const [x, y] = [f64([8, 4]), f64([8])];
    const w = f64([4]);
    const loss = (weights: Tensor, one: Tensor, target: Tensor): Tensor =>
      one.mul(weights).sum().sub(target).square();
    const grads = vmap(grad(loss), { inAxes: [null, 0, 0] })(w, x, y);
    // d/dw (x.w - y)^2 = 2 (x.w - y) x
    await expectSame(grads, x.matmul(w.unsqueeze(1)).squeeze(1).sub(y).mul(2).unsqueeze(1).mul(x));
  });

  it("of the gradient of a model's parameters: per-example gradients sum to the batch's", async () => {
    const model = new nn.Sequential(new nn.Linear(5, 7), new nn.LayerNorm(7), new nn.Linear(7, 3));
    const x = randn([6, 5]);
    const target = tensor([0, 1, 2, 0, 1, 2], { dtype: "int32" });
    const parameters: Record<string, Tensor> = Object.fromEntries(model.namedParameters());
    const loss = (given: Record<string, Tensor>, input: Tensor, label: Tensor): Tensor =>
      F.crossEntropy(functionalCall(model, given, input), label, { reduction: "sum" });
    const each = vmap(grad(loss), { inAxes: [null, 0, 0] })(parameters, x, target);
    F.crossEntropy(model.forward(x), target, { reduction: "sum" }).backward();
    for (const [name, parameter] of model.namedParameters())
      await expectSame(each[name].sum(0), parameter.grad as Tensor, 2e-6);
  });

  it("is differentiated: grad of vmap, and backward through it", async () => {
    const x = f64([5, 3]);
    const fn = (one: Tensor): Tensor => one.sin().sum();
    await expectSame(
      grad((all: Tensor) => vmap(fn)(all).square().sum())(x),
      x.sin().sum(1, true).mul(2).mul(x.cos()),
    );
    const leaf = f64([5, 3]).requiresGrad_();
    vmap(fn)(leaf).sum().backward();
    await expectSame(leaf.grad as Tensor, leaf.detach().cos());
  });

  it("records no gradient where the function records none", () => {
    const leaf = f64([5, 3]).requiresGrad_();
    expect(vmap((x: Tensor) => noGrad(() => x.sin()))(leaf).requiresGrad).toBe(false);
    expect(vmap((x: Tensor) => x.sin())(leaf).requiresGrad).toBe(true);
  });

  it("selects rows by indices of its own, and still refuses one out of range", async () => {
    const tables = f64([3, 4, 2]);
    const ids = tensor(
      [
        [0, 3],
        [1, 1],
        [2, 0],
      ],
      { dtype: "int32" },
    );
    const pick = (table: Tensor, id: Tensor): Tensor => table.indexSelect(0, id);
    await expectSame(vmap(pick)(tables, ids), loop(pick, tables, ids));
    const outside = tensor(
      [
        [0, 4],
        [1, 1],
        [2, 0],
      ],
      { dtype: "int32" },
    );
    await expect(vmap(pick)(tables, outside).data()).rejects.toThrow(/out of range/);
  });

  it("draws random numbers as it is told", async () => {
    const x = ones([4, 100]);
    const fn = (one: Tensor): Tensor => one.mul(rand([100]));
    expect(() => vmap(fn)(x)).toThrow(ValueError);
    expect(() => vmap(fn)(x)).toThrow(/randomness/);
    const same = await vmap(fn, { randomness: "same" })(x).data();
    expect([...same.slice(0, 100)]).toEqual([...same.slice(300)]);
    const different = await vmap(fn, { randomness: "different" })(x).data();
    expect(new Set(Array.from(different, Number)).size).toBeGreaterThan(390);
    manualSeed(1);
    expect(
      vmap((one: Tensor) => one.where(bernoulli([100], 0.5), 0), { randomness: "different" })(x).shape,
    ).toEqual([4, 100]);
  });

  it("says what does not fit", async () => {
    const [a, b] = [f64([3, 2]), f64([4, 2])];
    const sum = (x: Tensor, y: Tensor): Tensor => x.add(y);
    expect(() => vmap(sum)(a, b)).toThrow(ShapeError);
    expect(() => vmap(sum)(a, b)).toThrow(/float64\[3, 2\] at dim 0, float64\[4, 2\] at dim 0/);
    expect(() => vmap(sum, { inAxes: [null, null] })(a, a)).toThrow(/no argument is batched/);
    expect(() => vmap(sum, { inAxes: [0] })(a, a)).toThrow(/structure of the arguments/);
    expect(() => vmap(sum, { inAxes: 2 })(a, a)).toThrow(/dim 2 is out of range/);
    expect(() => vmap(sum, { outAxes: null })(a, a)).toThrow(/differs from example to example/);
    expect(() => vmap(sum, { outAxes: [0, 0] })(a, a)).toThrow(/structure of the results/);
    const state = new nn.Parameter(ones([2]));
    expect(() => vmap((x: Tensor) => noGrad(() => state.add_(x)))(a)).toThrow(TensorError);
    const leaf = ones([2]).requiresGrad_();
    expect(() =>
      vmap((x: Tensor) => {
        leaf.mul(x).sum().backward();
        return x;
      })(a),
    ).toThrow(/backward\(\) is called inside/);
    let read: Promise<unknown> = Promise.resolve();
    vmap((x: Tensor) => {
      read = x.sum().item();
      return x;
    })(a);
    await expect(read).rejects.toThrow(/is read inside a function that is being traced/);
  });
});

describe("vjp and jvp", () => {
  it("pull back and push forward as the Jacobian does", async () => {
    const w = f64([6, 6]);
    const [x, t, u] = [f64([4, 6]), f64([4, 6]), f64([4, 6])];
    const [value, pullback] = vjp(network(w), x);
    const [same, tangent] = jvp(network(w), [x], [t]);
    await expectSame(value, same, 0);
    // <u, J t> = <Jt u, t>
    await expectSame(u.mul(tangent).sum(), pullback(u)[0].mul(t).sum(), 1e-10);
    const eps = 1e-6;
    const central = network(w)(x.add(t.mul(eps)))
      .sub(network(w)(x.sub(t.mul(eps))))
      .div(2 * eps);
    // attention's lse is float32, also beside float64 operands
    await expectSame(tangent, central, 1e-6);
  });

  it("keep structures; values that do not depend give zeros", async () => {
    const fn = (p: { a: Tensor; b: Tensor }, k: Tensor) => [p.a.mul(p.b), k.detach()];
    const [a, b, k] = [f64([3]), f64([3]), f64([2])];
    const [value, pullback] = vjp(fn, { a, b }, k);
    const [pulled, none] = pullback([ones([3], { dtype: "float64" }), value[1]]);
    await expectSame(pulled.a, b);
    await expectSame(pulled.b, a);
    await expectSame(none, k.mul(0));
    const [, tangents] = jvp(fn, [{ a, b }, k], [{ a: b, b: a }, k]);
    await expectSame(tangents[0], b.mul(b).add(a.mul(a)));
    await expectSame(tangents[1], k.mul(0));
  });

  it("of grad is the Hessian times a vector", async () => {
    const [x, t] = [f64([5]), f64([5])];
    const cubic = (at: Tensor): Tensor => at.pow(3).sum();
    await expectSame(jvp(grad(cubic), [x], [t])[1], x.mul(6).mul(t));
  });

  it("say what does not fit", () => {
    const x = f64([3]);
    expect(() => jvp((at: Tensor) => at, [x], [f64([2])])).toThrow(GradError);
    expect(() => jvp((at: Tensor) => at, [x], [f64([2])])).toThrow(
      /tangent 0 must be float64\[3\], got float64\[2\]/,
    );
    const [, pullback] = vjp((at: Tensor) => at.mul(2), x);
    expect(() => pullback(ones([3]))).toThrow(/cotangent 0 must be float64\[3\], got float32\[3\]/);
  });

  it("compute nothing of reverse mode that forward mode has no need of", async () => {
    const x = f64([3]);
    const [, tangent] = jvp((at: Tensor) => at.exp(), [x], [x]);
    const names = new Set<string>();
    const visit = (node: Tensor["node"]): void => {
      if (node.storage === null) names.add(node.op.name);
      node.inputs.forEach(visit);
    };
    visit(tangent.node);
    expect([...names].filter((name) => !["mul", "exp", "reshape", "random_normal"].includes(name))).toEqual(
      [],
    );
  });
});

describe("Jacobians", () => {
  it("by both modes agree with the formula", async () => {
    const w = f64([4, 3]);
    const x = f64([3]);
    const fn = (at: Tensor): Tensor => w.matmul(at.unsqueeze(1)).squeeze(1).square();
    const wanted = w.matmul(x.unsqueeze(1)).mul(2).mul(w);
    await expectSame(jacrev(fn)(x), wanted);
    await expectSame(jacfwd(fn)(x), wanted);
    expect(() => jacrev(fn)(tensor([1, 2, 3], { dtype: "int32" }))).toThrow(GradError);
  });

  it("of several dims are [...result, ...argument]", async () => {
    const x = f64([2, 3]);
    const fn = (at: Tensor): Tensor => at.transpose(0, 1).exp();
    expect(jacrev(fn)(x).shape).toEqual([3, 2, 2, 3]);
    await expectSame(jacrev(fn)(x), jacfwd(fn)(x));
  });

  it("of gradients are Hessians: x' A x has A + A'", async () => {
    const a = f64([4, 4]);
    const x = f64([4]);
    const quadratic = (at: Tensor): Tensor => at.unsqueeze(0).matmul(a).matmul(at.unsqueeze(1)).sum();
    await expectSame(hessian(quadratic)(x), a.add(a.transpose(0, 1)));
    await expectSame(jacrev(jacrev(quadratic))(x), a.add(a.transpose(0, 1)));
  });
});

describe("functionalCall", () => {
  it("runs a module on other values than its own, and leaves these", async () => {
    const layer = new nn.Linear(3, 2);
    const [weight, x] = [randn([2, 3]), randn([4, 3])];
    const found = functionalCall(layer, { weight }, x);
    await expectSame(found, F.linear(x, weight, layer.bias), 1e-6);
    await expectSame(layer.forward(x), F.linear(x, layer.weight, layer.bias), 0);
    expect(() => functionalCall(layer, { wieght: weight }, x)).toThrow(/wieght/);
    expect(() => functionalCall(layer, { weight: x }, x)).toThrow(
      /weight is \[4, 3\] and should be \[2, 3\]/,
    );
  });
});

describe("grad", () => {
  it("of a structured argument has its structure", async () => {
    const p = { w: f64([3]), layers: [f64([3])] };
    const loss = (q: typeof p): Tensor => q.w.mul(q.layers[0]).sum();
    const found = grad(loss)(p);
    await expectSame(found.w, p.layers[0]);
    await expectSame(found.layers[0], p.w);
    const { grads } = valueAndGrad((a: Tensor, b: Tensor) => a.mul(b).sum(), { argnums: [1, 0] })(
      p.w,
      p.layers[0],
    );
    await expectSame(grads[0], p.w);
    await expectSame(grads[1], p.layers[0]);
  });
});

describe("transforms of traced functions", () => {
  it("are traced as what they record, modules inside read by name", async () => {
    class PerExample extends nn.Module {
      readonly layer = new nn.Linear(3, 2);
      forward(x: Tensor): Tensor {
        return vmap((one: Tensor) => grad((at: Tensor) => this.layer.forward(at).square().sum())(one))(x);
      }
    }
    const model = new PerExample();
    const x = randn([4, 3]);
    const traced = fx.symbolicTrace(model, { exampleInputs: [x] });
    expect(traced.graph.findNodes({ op: "get_attr" }).map((node) => node.target)).toContain("layer.weight");
    expect(traced.graph.findNodes({ op: "call_module" })).toEqual([]);
    await expectSame(traced.forward(x), model.forward(x), 0);
    const more = randn([2, 4, 3]);
    const each = vmap((one: Tensor): Tensor => traced.forward(one))(more);
    await expectSame(
      each,
      loop((one) => model.forward(one), more),
      1e-6,
    );
  });
});

describe("transforms and compile", () => {
  it("are compiled with the function they are in, and repeated", async () => {
    const model = new nn.Sequential(new nn.Linear(4, 8), new nn.LayerNorm(8), new nn.Linear(8, 1));
    const parameters: Record<string, Tensor> = Object.fromEntries(model.namedParameters());
    const loss = (given: Record<string, Tensor>, x: Tensor): Tensor =>
      functionalCall(model, given, x).square().sum();
    const fn = (x: Tensor) => ({
      each: vmap(grad(loss), { inAxes: [null, 0] })(parameters, x),
      product: jvp(
        grad((at: Tensor) => at.pow(3).sum()),
        [x],
        [x],
      )[1],
      hessians: vmap(hessian((at: Tensor) => at.exp().sum()))(x),
    });
    const compiled = compile(fn);
    for (let step = 0; step < 3; step++) {
      const x = randn([5, 4]);
      await sync(x);
      const [found, wanted] = [compiled(x), fn(x)];
      for (const name of Object.keys(parameters)) await expectSame(found.each[name], wanted.each[name], 1e-5);
      await expectSame(found.product, wanted.product, 1e-5);
      await expectSame(found.hessians, wanted.hessians, 1e-5);
    }
  });

  it("take a compiled function as what it is made of", async () => {
    const x = randn([3, 4]);
    const compiled = compile((one: Tensor) => one.sin().sum());
    await expectSame(vmap(compiled)(x), x.sin().sum(1), 1e-6);
    expect(() => grad(compiled)(x)).toThrow(GradError);
  });
});
