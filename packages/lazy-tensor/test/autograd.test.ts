import { beforeAll, describe, expect, it } from "vitest";
import {
  configure,
  GradError,
  grad,
  gradOf,
  isGradEnabled,
  noGrad,
  sync,
  type Tensor,
  tensor,
  valueAndGrad,
} from "../src/index.js";

beforeAll(() => {
  configure({ device: "cpu", verifyPasses: true });
});

describe("backward", () => {
  it("reaches leaves through broadcasts, reuse and matmul", async () => {
    const a = tensor(
      [
        [1, 2],
        [3, 4],
      ],
      { requiresGrad: true },
    );
    const b = tensor([10, 20], { requiresGrad: true });
    a.matmul(a).add(b).mul(b).sum().backward();
    expect(await b.grad?.array()).toEqual([10 * 4 + 22, 20 * 4 + 32]);
    expect(await a.grad?.array()).toEqual([
      [90, 190],
      [110, 230],
    ]);
  });
  it("stops at detach and inside noGrad", async () => {
    const x = tensor([2], { requiresGrad: true });
    x.mul(x.detach()).sum().backward();
    expect(await x.grad?.array()).toEqual([2]);
    const hidden = noGrad(() => x.mul(3));
    expect(hidden.requiresGrad).toBe(false);
    expect(isGradEnabled()).toBe(true);
  });
  it("takes a cotangent for tensors that are no scalars, and refuses to guess one", async () => {
    const x = tensor([1, 2], { requiresGrad: true });
    expect(() => x.mul(2).backward()).toThrow(GradError);
    expect(() => x.mul(2).backward(tensor([1]))).toThrow(/\[1\].*\[2\]/);
    x.mul(2).backward(tensor([1, 10]));
    expect(await x.grad?.array()).toEqual([2, 20]);
  });
  it("says when nothing requires gradients", () => {
    expect(() => tensor([1]).sum().backward()).toThrow(/does not depend on anything that requires gradients/);
  });
  it("differentiates its own gradient", async () => {
    const x = tensor([3], { requiresGrad: true });
    const [dx] = gradOf(x.pow(3).sum(), [x], { createGraph: true });
    const [ddx] = gradOf(dx as Tensor, [x]);
    expect(await ddx?.item()).toBeCloseTo(18, 4);
  });
  it("gives null for an input that does not matter", () => {
    const [x, y] = [tensor([1], { requiresGrad: true }), tensor([1], { requiresGrad: true })];
    expect(gradOf(x.sum(), [x, y])[1]).toBeNull();
  });
  it("does not run through a value whose history an earlier step freed", async () => {
    const x = tensor([1, 2], { requiresGrad: true });
    const y = x.mul(2).sum();
    y.backward();
    await sync();
    const first = await x.grad?.array();
    y.backward();
    expect(first).toEqual([2, 2]);
    expect(await x.grad?.array()).toEqual([4, 4]);
  });
});

describe("grad and valueAndGrad", () => {
  const cube = (x: Tensor) => x.pow(3).sum();
  it("nest", async () => {
    const x = tensor([2]);
    expect(await grad(cube)(x).item()).toBeCloseTo(12, 4);
    const second = grad((y: Tensor) => grad(cube)(y).sum());
    expect(await second(x).item()).toBeCloseTo(12, 4);
    expect(await grad((y: Tensor) => second(y).sum())(x).item()).toBeCloseTo(6, 3);
  });
  it("give the value and the gradients asked for", async () => {
    const f = (a: Tensor, b: Tensor) => a.mul(b).sum();
    const { value, grads } = valueAndGrad(f, { argnums: [0, 1] })(tensor([1, 2]), tensor([3, 4]));
    expect(await value.item()).toBe(11);
    expect(await grads[0].array()).toEqual([3, 4]);
    expect(await grads[1].array()).toEqual([1, 2]);
    expect(() => grad(f, 2)(tensor([1]), tensor([1]))).toThrow(/argument 2 of 2/);
  });
});
