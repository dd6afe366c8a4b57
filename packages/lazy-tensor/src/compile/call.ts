import { Tensor } from "../tensor.js";

const tensorMark = Symbol("tensor");
const arrayMark = Symbol("array");
const objectMark = Symbol("object");

/** Arguments taken apart: tensors in order, and all else, with the structure, as a list that can be compared. */
export interface Call {
  readonly tensors: Tensor[];
  readonly rest: unknown[];
}

/** Arrays and plain objects are looked into; anything else that is no tensor is compared as it is. */
export function takeApart(args: readonly unknown[]): Call {
  const call: Call = { tensors: [], rest: [] };
  for (let i = 0; i < args.length; i++) visit(args[i], call);
  return call;
}

function visit(value: unknown, call: Call): void {
  if (typeof value !== "object" || value === null) {
    call.rest.push(value);
  } else if (value instanceof Tensor) {
    call.tensors.push(value);
    call.rest.push(tensorMark);
  } else if (Array.isArray(value)) {
    call.rest.push(arrayMark, value.length);
    for (const item of value) visit(item, call);
  } else if (Object.getPrototypeOf(value) === Object.prototype) {
    const entries = Object.entries(value);
    call.rest.push(objectMark, entries.length);
    for (const [key, item] of entries) {
      call.rest.push(key);
      visit(item, call);
    }
  } else {
    call.rest.push(value);
  }
}

/** Where two calls differ in what is no tensor, in words; null where they do not. */
export function restDiffers(before: readonly unknown[], now: readonly unknown[]): string | null {
  for (let i = 0; i < Math.max(before.length, now.length); i++) {
    if (i < before.length && i < now.length && Object.is(before[i], now[i])) continue;
    const show = (value: unknown): string =>
      typeof value === "symbol"
        ? `a ${value.description}`
        : typeof value === "function"
          ? "another function"
          : typeof value === "object" && value !== null
            ? `another ${value.constructor?.name ?? "object"}`
            : (JSON.stringify(value) ?? String(value));
    const was = i < before.length ? show(before[i]) : "nothing";
    return `an argument is ${i < now.length ? show(now[i]) : "missing"}, was ${was}`;
  }
  return null;
}
