import type { GraphModule } from "./graph_module.js";
import { Interpreter } from "./interpreter.js";
import { calledBy, retrace } from "./symbolic_trace.js";

/**
 * An interpreter whose run is a new graph: override what it does for a kind of node, or `overrides` for single ops, with
 * calls on tensors, which are recorded in the node's stead. As torch.fx.Transformer.
 */
export class Transformer extends Interpreter {
  /** The transformed module; the one given stays as it is. */
  transform(): GraphModule {
    return retrace(this.module, (...args) => this.run(...args), calledBy(this.module));
  }
}
