import type { CollectiveName, OpName } from "@lazuli/fx-trace";
import { attentions } from "./ops.samples.attention.js";
import { elementwise } from "./ops.samples.elementwise.js";
import { fused } from "./ops.samples.fused.js";
import { indexing } from "./ops.samples.indexing.js";
import { reductions } from "./ops.samples.reductions.js";
import { sources } from "./ops.samples.sources.js";
import type { Sample } from "./ops.samples.types.js";
import { views } from "./ops.samples.views.js";

/** Collectives mean something on a mesh only, and have tests of their own. */
export type SampledOp = Exclude<OpName, CollectiveName>;

/**
 * What every op is tested on, on every device: an op without samples does not compile. PyTorch's answers are in
 * goldens/ops.safetensors; after a change here write them anew: `python scripts/goldens/ops.py`.
 */
export const samples = {
  ...sources,
  ...elementwise,
  ...reductions,
  ...views,
  ...indexing,
  ...fused,
  ...attentions,
} satisfies Record<SampledOp, readonly Sample[]>;
