import { LazuliError } from "@lazuli/fx-trace";

/** Where a compiled node was recorded. */
export interface Place {
  readonly op: string;
  readonly scope: string;
}

/** A device error that names a node by position, as one that names the op and the module it was called in. */
export function placeError(error: unknown, places: readonly Place[]): unknown {
  if (!(error instanceof LazuliError)) return error;
  const position = (error as LazuliError & { node?: number }).node ?? -1;
  const place = places[position];
  if (!place || error.scope) return error;
  const Typed = error.constructor as new (op: string, detail: string, scope: string) => LazuliError;
  return Object.assign(new Typed(place.op, error.detail, place.scope), { node: position });
}
