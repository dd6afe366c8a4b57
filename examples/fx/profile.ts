import { fx, sync, Tensor } from "@lazuli/lazy-tensor";

/** Makes the module return, beside its result, the mean magnitude of what each of its layers gives, by path. */
export function observeLayers(traced: fx.GraphModule): fx.GraphModule {
  const { graph } = traced;
  const statistics: Record<string, fx.FxNode> = {};
  for (const node of graph.findNodes({ op: "call_module" })) {
    if (!node.type) continue;
    const dims = node.type.shape.map((_, dim) => dim);
    statistics[node.targetName] = graph.insertingAfter(node, () => {
      const magnitude = graph.callFunction("abs", [node], {}, { noGrad: true });
      return graph.callFunction("mean", [magnitude], { dims, keepdim: false }, { noGrad: true });
    });
  }
  const output = graph.outputNode as fx.FxNode;
  output.args = [{ result: output.args[0], statistics }];
  return traced.lint();
}

/** Milliseconds that each node takes when it is computed by itself, what is cached and fused left aside. */
export async function timeNodes(traced: fx.GraphModule, ...args: unknown[]): Promise<Map<string, number>> {
  const times = new Map<string, number>();
  let started = performance.now();
  for (const { node, value } of new fx.Interpreter(traced).steps(...args)) {
    if (value instanceof Tensor) await sync(value);
    times.set(node.name, performance.now() - started);
    started = performance.now();
  }
  return times;
}
