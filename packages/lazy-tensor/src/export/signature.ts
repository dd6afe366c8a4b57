import { type DType, dtypes, formatType, isPlainObject, type Shape, sameShape } from "@lazuli/fx-trace";
import { ExportError } from "../errors.js";
import { Tensor } from "../tensor.js";

/**
 * The structure of arguments or a result, as JSON: tensors by number and type, arrays, plain objects, and constants.
 */
export type Structure =
  | { readonly tensor: number; readonly dtype: DType; readonly shape: Shape }
  | { readonly array: readonly Structure[] }
  | { readonly object: Readonly<Record<string, Structure>> }
  | { readonly constant: string | number | boolean | null }
  | { readonly absent: true };

/** Throws ExportError for a value that is neither; `what` names the whole. */
export function describe(value: unknown, what: string, next = { tensor: 0 }): Structure {
  if (value instanceof Tensor) return { tensor: next.tensor++, dtype: value.dtype, shape: value.shape };
  if (Array.isArray(value)) return { array: value.map((item, i) => describe(item, `${what}.${i}`, next)) };
  if (isPlainObject(value))
    return {
      object: Object.fromEntries(
        Object.entries(value).map(([key, item]) => [key, describe(item, `${what}.${key}`, next)]),
      ),
    };
  if (value === undefined) return { absent: true };
  if (value === null || ["string", "boolean"].includes(typeof value) || Number.isFinite(value))
    return { constant: value as string | number | boolean | null };
  throw new ExportError(
    "export",
    `${what} is ${String(value)}: arguments and results are tensors, arrays, plain objects, strings, numbers, booleans and null`,
  );
}

/** The structure with `tensors` in it. */
export function rebuild(structure: Structure, tensors: readonly Tensor[]): unknown {
  if ("tensor" in structure) return tensors[structure.tensor];
  if ("array" in structure) return structure.array.map((item) => rebuild(item, tensors));
  if ("object" in structure)
    return Object.fromEntries(
      Object.entries(structure.object).map(([key, item]) => [key, rebuild(item, tensors)]),
    );
  return "constant" in structure ? structure.constant : undefined;
}

/** The tensors of `value`, in order. Throws ExportError where it is not of the structure, naming the place. */
export function matchStructure(structure: Structure, value: unknown, what: string, into: Tensor[]): void {
  const fail: (expected: string) => never = (expected) => {
    throw new ExportError(
      "program",
      `${what} must be ${expected}, as when it was exported, got ${shown(value)}`,
    );
  };
  if ("tensor" in structure) {
    if (!(value instanceof Tensor)) fail(formatType(structure));
    if (value.dtype !== structure.dtype || !sameShape(value.shape, structure.shape))
      fail(formatType(structure));
    into[structure.tensor] = value;
  } else if ("array" in structure) {
    if (!Array.isArray(value) || value.length !== structure.array.length)
      fail(`an array of ${structure.array.length}`);
    for (const [i, item] of structure.array.entries()) matchStructure(item, value[i], `${what}.${i}`, into);
  } else if ("object" in structure) {
    const keys = Object.keys(structure.object);
    if (!isPlainObject(value)) fail(`an object of ${keys.join(", ")}`);
    const unknown = Object.keys(value).filter((key) => !(key in structure.object));
    if (unknown.length > 0) fail(`an object of ${keys.join(", ")}`);
    for (const key of keys) matchStructure(structure.object[key], value[key], `${what}.${key}`, into);
  } else if ("constant" in structure ? value !== structure.constant : value !== undefined) {
    fail("constant" in structure ? JSON.stringify(structure.constant) : "left out");
  }
}

function shown(value: unknown): string {
  if (value instanceof Tensor) return formatType(value.node.type);
  if (Array.isArray(value)) return `an array of ${value.length}`;
  return isPlainObject(value) ? `an object of ${Object.keys(value).join(", ")}` : String(value);
}

const isCount = (value: unknown): boolean => Number.isSafeInteger(value) && (value as number) >= 0;

/** Whether JSON read from a file is a Structure whose tensors are numbered 0, 1, ... in order. */
export function isStructure(json: unknown, next = { tensor: 0 }): json is Structure {
  if (!isPlainObject(json)) return false;
  if ("tensor" in json)
    return (
      json.tensor === next.tensor++ &&
      dtypes.includes(json.dtype as DType) &&
      Array.isArray(json.shape) &&
      json.shape.every(isCount)
    );
  if ("array" in json)
    return Array.isArray(json.array) && json.array.every((item) => isStructure(item, next));
  if ("object" in json)
    return isPlainObject(json.object) && Object.values(json.object).every((item) => isStructure(item, next));
  return "constant" in json || json.absent === true;
}
