import { formatType, type Node, TraceError } from "@lazuli/fx-trace";
import type { DeviceBuffer } from "./buffer.js";
import { StaleTensorError } from "./errors.js";

/** Throws StaleTensorError, or TraceError, where the computed node's value is not there to be read. */
export function requireLive(node: Node): void {
  const buffer = node.storage as DeviceBuffer;
  if (buffer.state === "live") return;
  if (buffer.state === "traced")
    throw new TraceError(
      node.op.name,
      `the value ${formatType(node.type)} was traced and has no data: what the traced function computed was kept (in a cache?) and used after it`,
      node.scope,
    );
  const what =
    buffer.state === "donated"
      ? "was overwritten by the update of the parameter or state it came from"
      : "was disposed (by dispose(), `using`, or zeroGrad())";
  throw new StaleTensorError(
    node.op.name,
    `the value ${formatType(node.type)} is gone: it ${what}. Pass the tensor to sync(tensor), or clone() it, before the step that ends it`,
    node.scope,
  );
}
