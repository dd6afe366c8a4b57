import {
  type Dim,
  type FxGraph,
  FxNode,
  formatShape,
  GuardError,
  isPlainObject,
  type SymbolSizes,
  type SymExpr,
} from "@lazuli/fx-trace";
import { Tensor } from "../tensor.js";

/** The arguments of a run by placeholder, and the sizes of symbolic dims. */
export interface Bound {
  readonly values: Map<FxNode, unknown>;
  readonly sizes: SymbolSizes;
}

/**
 * Matches `args` with what the graph was traced on. Throws GuardError that names the argument and both values: another
 * structure, dtype, rank or size, or another value of a constant.
 */
export function bindArguments(graph: FxGraph, args: readonly unknown[]): Bound {
  const binding = new Binding(graph);
  const { params } = graph;
  if (args.length > params.length && args.slice(params.length).some((arg) => arg !== undefined))
    throw new GuardError(
      "forward",
      `${args.length} arguments are given, it was traced with ${params.length}`,
    );
  params.forEach(({ name, value }, i) => {
    binding.match(value, args[i], name || `argument ${i}`);
  });
  binding.checkExpressions();
  return binding;
}

class Binding implements Bound {
  readonly values = new Map<FxNode, unknown>();
  readonly sizes = new Map<string, number>();
  /** Where each symbol got its size. */
  private readonly origins = new Map<string, string>();
  private readonly later: { dim: SymExpr; size: number; where: string }[] = [];

  constructor(private readonly graph: FxGraph) {}

  match(template: unknown, given: unknown, where: string): void {
    if (template instanceof FxNode) this.matchTensor(template, given, where);
    else if (Array.isArray(template)) {
      if (!Array.isArray(given) || given.length !== template.length)
        fail(where, `an array of ${template.length}`, describe(given));
      template.forEach((item, i) => {
        this.match(item, (given as unknown[])[i], `${where}[${i}]`);
      });
    } else if (isPlainObject(template)) this.matchObject(template, given, where);
    else if (!Object.is(template, given) && given !== undefined)
      fail(where, describe(template), describe(given));
    else if (given === undefined && template !== undefined && !this.isTop(template))
      fail(where, describe(template), "nothing");
  }

  private matchObject(template: Record<string, unknown>, given: unknown, where: string): void {
    const keys = Object.keys(template);
    if (!isPlainObject(given)) fail(where, `an object of ${keys.join(", ")}`, describe(given));
    const object = given as Record<string, unknown>;
    for (const key of Object.keys(object))
      if (!(key in template) && object[key] !== undefined)
        fail(`${where}.${key}`, "not given", describe(object[key]));
    for (const key of keys) this.match(template[key], object[key], `${where}.${key}`);
  }

  /** A whole argument that is a constant of the program may be left out. */
  private isTop(template: unknown): boolean {
    return this.graph.params.some(({ value }) => value === template);
  }

  private matchTensor(node: FxNode, given: unknown, where: string): void {
    this.values.set(node, given);
    const { type } = node;
    if (!type) return;
    if (!(given instanceof Tensor)) {
      fail(where, `a tensor ${type.dtype}${formatShape(type.shape)}`, describe(given));
      return;
    }
    if (given.dtype !== type.dtype) fail(where, type.dtype, given.dtype);
    const dims = node.dims?.[0] ?? type.shape;
    const { shape } = given;
    if (shape.length !== dims.length) fail(where, `a shape [${dims.join(", ")}]`, formatShape(shape));
    dims.forEach((dim, i) => {
      this.matchDim(dim, shape[i], `${where}, dim ${i}`);
    });
  }

  private matchDim(dim: Dim, size: number, where: string): void {
    if (typeof dim === "number") {
      if (dim !== size)
        fail(where, `size ${dim}`, `size ${size}`, " (mark the dim as dynamic, or trace again)");
      return;
    }
    const name = dim.toString();
    const info = this.graph.symbols.get(name);
    if (!info) {
      this.later.push({ dim, size, where });
      return;
    }
    const before = this.sizes.get(name);
    if (before !== undefined && before !== size)
      throw new GuardError(
        "forward",
        `${name} is ${before} in ${this.origins.get(name)}, but ${size} in ${where}`,
      );
    if (size < info.min || size > info.max)
      throw new GuardError(
        "forward",
        `${name} is ${size} in ${where}, and was traced for ${info.min} to ${info.max}`,
      );
    this.sizes.set(name, size);
    this.origins.set(name, where);
  }

  checkExpressions(): void {
    for (const { dim, size, where } of this.later) {
      const wanted = dim.evaluate(this.sizes);
      if (wanted !== size) fail(where, `size ${dim} = ${wanted}`, `size ${size}`);
    }
  }
}

function fail(where: string, traced: string, given: string, hint = ""): never {
  throw new GuardError("forward", `${where} was ${traced} when traced, and is ${given} now${hint}`);
}

function describe(value: unknown): string {
  if (value instanceof Tensor) return `a tensor ${value.dtype}${formatShape(value.shape)}`;
  if (value === undefined) return "nothing";
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (typeof value === "string") return JSON.stringify(value);
  return typeof value === "object" && value !== null
    ? `an object of ${Object.keys(value).join(", ")}`
    : String(value);
}
