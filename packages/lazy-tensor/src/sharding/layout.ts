import { type Dims, dimsIn, type Mesh } from "@lazuli/sharding";
import { engine } from "../runtime.js";

/** A layout, and the mesh whose axes it names: the engine's when it was made, which may become finer. */
export interface Layout {
  readonly mesh: Mesh | null;
  readonly dims: Dims;
}

export const layoutNow = (dims: Dims | null): Layout | null => dims && { mesh: engine().mesh, dims };

/** The layout over the engine's mesh as it is now. */
export function presentDims(layout: Layout | null): Dims | null {
  if (!layout) return null;
  const { mesh } = engine();
  return layout.mesh && mesh ? dimsIn(layout.mesh, layout.dims, mesh) : layout.dims;
}
