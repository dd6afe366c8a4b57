import { type FxGraph, mapLeaves, mapNodes, SymExpr, TraceError } from "@lazuli/fx-trace";
import { Tensor } from "../tensor.js";
import type { Symbols } from "./dynamic.js";
import type { Point } from "./fit.js";
import { inputName, TensorSpec, type TraceArgument } from "./tracer.js";

/** A symbolic dim: its name, or with the sizes it may take. */
export type DynamicDim = string | { readonly name: string; readonly min?: number; readonly max?: number };
/** Symbolic dims by position. */
export type DynamicDims = Readonly<Record<number, DynamicDim>>;
/** Symbolic dims of every input (`{ 0: "batch" }`), or by the name of the input (`{ ids: { 0: "batch", 1: "seq" } }`). */
export type Dynamic = DynamicDims | Readonly<Record<string, DynamicDims>>;

/** Example inputs and concrete arguments, by position. Throws TraceError for a name that the function does not have. */
export function traceArguments(
  names: readonly string[],
  exampleInputs: readonly unknown[],
  concreteArgs: Readonly<Record<string, unknown>>,
): TraceArgument[] {
  const concrete = new Map<number, unknown>();
  for (const [key, value] of Object.entries(concreteArgs)) {
    const position = /^\d+$/.test(key) ? Number(key) : names.indexOf(key);
    if (position < 0)
      throw new TraceError(
        "trace",
        `concreteArgs names ${key}, and the arguments are ${names.join(", ") || "none"}`,
      );
    concrete.set(position, value);
  }
  const count = Math.max(exampleInputs.length, ...[...concrete.keys()].map((position) => position + 1), 0);
  return Array.from({ length: count }, (_, i) => ({
    name: names[i] ?? `arg${i}`,
    value: concrete.has(i) ? concrete.get(i) : exampleInputs[i],
    concrete: concrete.has(i),
  }));
}

/** The arguments with symbolic dims of other sizes: examples become specs. */
export interface DynamicArguments {
  readonly symbols: Symbols;
  readonly at: (sizes: Point) => readonly TraceArgument[];
}

/** What `dynamic` says of the arguments. Throws TraceError for an input or dim that is not there, or sizes that differ. */
export function dynamicArguments(args: readonly TraceArgument[], dynamic: Dynamic): DynamicArguments {
  const symbols = new Map<string, { hint: number; min: number | null; max: number; where: string }>();
  /** By input: the symbol of each dim. */
  const dims = new Map<string, Map<number, string>>();
  const unused = new Set(Object.keys(dynamic));
  eachInput(args, (name, { shape }) => {
    for (const [key, dim] of dimsFor(dynamic, name)) {
      if (key >= shape.length) {
        if (name in dynamic)
          throw new TraceError(
            "dynamic",
            `${name} has ${shape.length} dims, and dim ${key} is to be ${nameOf(dim)}`,
          );
        continue;
      }
      unused.delete(name);
      unused.delete(String(key));
      const symbol = addSymbol(symbols, dim, shape[key], `${name}, dim ${key}`);
      dims.set(name, (dims.get(name) ?? new Map<number, string>()).set(key, symbol));
    }
  });
  if (unused.size > 0) throw new TraceError("dynamic", `no input is or has a dim ${[...unused].join(", ")}`);
  const at = (sizes: Point): readonly TraceArgument[] =>
    args.map((arg) => ({
      ...arg,
      value: mapInputs(arg, (name, leaf) => {
        const own = dims.get(name);
        if (!own) return leaf;
        const shape = leaf.shape.map((size, i) => sizes.get(own.get(i) ?? "") ?? size);
        return new TensorSpec(shape, leaf.dtype, leaf.requiresGrad);
      }),
    }));
  return { symbols, at };
}

const nameOf = (dim: DynamicDim): string => (typeof dim === "string" ? dim : dim.name);

const dimsFor = (dynamic: Dynamic, input: string): [number, DynamicDim][] =>
  Object.entries(dynamic).flatMap(([key, value]): [number, DynamicDim][] => {
    if (/^\d+$/.test(key)) return [[Number(key), value as DynamicDim]];
    if (key !== input) return [];
    return Object.entries(value as DynamicDims).map(([dim, name]) => [Number(dim), name]);
  });

function addSymbol(
  symbols: Map<string, { hint: number; min: number | null; max: number; where: string }>,
  dim: DynamicDim,
  size: number,
  where: string,
): string {
  const name = nameOf(dim);
  const { min = null, max = Number.POSITIVE_INFINITY } = typeof dim === "string" ? {} : dim;
  if (!/^[A-Za-z_$][\w$]*$/.test(name))
    throw new TraceError("dynamic", `${JSON.stringify(name)} is no name for a dim`);
  if (size < (min ?? 1) || size > max)
    throw new TraceError("dynamic", `${name} is ${size} in ${where}, and may be ${min ?? 1} to ${max}`);
  const known = symbols.get(name);
  if (known && known.hint !== size)
    throw new TraceError("dynamic", `${name} is ${known.hint} in ${known.where}, and ${size} in ${where}`);
  symbols.set(name, known ?? { hint: size, min, max, where });
  return name;
}

type Input = {
  readonly shape: readonly number[];
  readonly dtype: TensorSpec["dtype"];
  readonly requiresGrad: boolean;
};

const mapInputs = (arg: TraceArgument, replace: (name: string, leaf: Input) => unknown): unknown =>
  arg.concrete
    ? arg.value
    : mapLeaves(arg.value, (leaf, path) =>
        leaf instanceof Tensor || leaf instanceof TensorSpec
          ? replace(inputName(arg.name, path), leaf)
          : leaf,
      );

function eachInput(args: readonly TraceArgument[], visit: (name: string, leaf: Input) => void): void {
  for (const arg of args) mapInputs(arg, (name, leaf) => visit(name, leaf));
}

/** Specs of a graph's inputs, in the arguments' structure, at the sizes it was traced with. */
export function exampleSpecs(graph: FxGraph): unknown[] {
  return graph.params.map(({ value }) =>
    mapNodes(value, ({ name, type }) => {
      if (!type) throw new TraceError("fx", `the type of the input ${name} is not known`);
      return new TensorSpec(type.shape, type.dtype);
    }),
  );
}

/** The symbolic dims of a graph's inputs, as `dynamic` takes them. */
export function dynamicOf(graph: FxGraph): Dynamic {
  const found: Record<string, Record<number, DynamicDim>> = {};
  for (const node of graph.placeholders)
    for (const [i, dim] of (node.dims?.[0] ?? []).entries()) {
      const info = dim instanceof SymExpr ? graph.symbols.get(dim.toString()) : undefined;
      if (!info) continue;
      const { min, max } = info;
      found[node.name] = { ...found[node.name], [i]: { name: String(dim), min, max } };
    }
  return found;
}
