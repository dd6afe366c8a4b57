import { expect } from "vitest";
import type { DType } from "../src/dtype.js";
import { GraphBuilder, gradients, input, type Node, sizeOf, withRecorder } from "../src/index.js";
import { evaluate } from "./reference.js";

/** Deterministic numbers in (-1, 1), never near 0. */
export function numbers(count: number, seed = 1): number[] {
  let state = seed * 2654435761;
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    const unit = (state >>> 8) / 2 ** 24;
    return unit < 0.5 ? -0.95 + 1.7 * unit : 0.1 + 1.7 * (unit - 0.5);
  });
}

export interface Operand {
  readonly shape: readonly number[];
  readonly data?: readonly number[];
  /** float64 where a gradient is checked. */
  readonly dtype?: DType;
}

export interface CheckOptions {
  readonly step?: number;
  readonly tolerance?: number;
  /** Whether second derivatives are checked too; they are by default. */
  readonly second?: boolean;
}

/** Inputs of a graph whose values are known, and those of them that are differentiated. */
class Point {
  readonly nodes: Node[] = [];
  readonly data: number[][] = [];

  add(shape: readonly number[], data: readonly number[], dtype: DType = "float64"): Node {
    const node = input([], { index: this.nodes.length, shape, dtype });
    node.isLeaf = true;
    node.requiresGrad = dtype === "float64";
    this.nodes.push(node);
    this.data.push([...data]);
    return node;
  }

  evaluate(nodes: readonly Node[]): Float64Array[] {
    return evaluate(nodes, this.data).map((value) => value.data);
  }

  /** Derivatives of `scalar` by each element of input `which`, by central differences. */
  slopes(scalar: () => number, which: number, step: number): number[] {
    const data = this.data[which];
    return data.map((value, i) => {
      data[i] = value + step;
      const above = scalar();
      data[i] = value - step;
      const below = scalar();
      data[i] = value;
      return (above - below) / (2 * step);
    });
  }
}

const dot = (as: readonly Float64Array[], bs: readonly Float64Array[]): number =>
  as.reduce((total, a, k) => a.reduce((sum, value, i) => sum + value * bs[k][i], total), 0);

/**
 * Checks that vjps agree with central differences: first derivatives of the outputs by the operands, then those of the
 * cotangents by the operands and by the outputs' cotangents.
 */
export function checkGradients(
  fn: (...inputs: Node[]) => Node | readonly Node[],
  operands: readonly Operand[],
  { step = 1e-5, tolerance = 2e-6, second = true }: CheckOptions = {},
): void {
  withRecorder(new GraphBuilder(), () => {
    const point = new Point();
    const inputs = operands.map(({ shape, data, dtype }, i) =>
      point.add(shape, data ?? numbers(sizeOf(shape), i + 1), dtype),
    );
    const made = fn(...inputs);
    const outputs = Array.isArray(made) ? (made as Node[]) : [made as Node];
    const cotangents = outputs.map((y, i) => point.add(y.shape, numbers(sizeOf(y.shape), 50 + i)));
    const targets = inputs.filter((x) => x.requiresGrad);
    const compare = (
      what: string,
      results: readonly (Node | null)[],
      of: () => number,
      by: readonly Node[],
    ): void => {
      by.forEach((x, k) => {
        const found = results[k];
        const slopes = point.slopes(of, point.nodes.indexOf(x), step);
        const values = found ? [...point.evaluate([found])[0]] : slopes.map(() => 0);
        slopes.forEach((slope, i) => {
          const close = Math.abs(values[i] - slope) <= tolerance * Math.max(1, Math.abs(slope));
          expect(close, `${what} by operand ${k}, element ${i}: vjp ${values[i]}, differences ${slope}`).toBe(
            true,
          );
        });
      });
    };

    const grads = gradients(outputs, cotangents, targets, { createGraph: true });
    grads.forEach((grad, k) => {
      if (!grad) return;
      expect([grad.dtype, grad.shape]).toEqual([targets[k].dtype, targets[k].shape]);
    });
    compare(
      "first derivative",
      grads,
      () => dot(point.evaluate(outputs), point.evaluate(cotangents)),
      targets,
    );
    if (!second) return;

    const smooth = grads.filter((grad): grad is Node => grad?.requiresGrad === true);
    const directions = smooth.map((grad, i) => point.add(grad.shape, numbers(sizeOf(grad.shape), 90 + i)));
    const by = [...targets, ...cotangents];
    const seconds = gradients(smooth, directions, by);
    compare("second derivative", seconds, () => dot(point.evaluate(smooth), point.evaluate(directions)), by);
  });
}
