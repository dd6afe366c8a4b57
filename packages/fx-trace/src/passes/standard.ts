import type { OpDef } from "../opdef.js";
import { cse } from "./cse.js";
import { dce } from "./dce.js";
import { decompose } from "./decompose.js";
import { foldGradScale, foldGradScaleOnly } from "./fold_grad_scale.js";
import type { Pass } from "./pass.js";
import { simplify } from "./simplify.js";

/**
 * The pipeline of every program: down to the ops the device has, then merged, simplified and pruned. Merging comes
 * twice: simplify recognises equal conditions by identity, and leaves equal nodes itself. `forMesh`: of a program that is
 * divided over a mesh afterwards.
 */
export const standardPasses = (supports: (op: OpDef) => boolean, forMesh = false): Pass[] => [
  decompose(supports),
  cse,
  simplify,
  dce,
  cse,
  forMesh ? foldGradScaleOnly : foldGradScale,
  dce,
];
