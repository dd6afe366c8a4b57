import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { buildGraph, encodeNodes, input, type Node, ops } from "@lazuli/fx-trace";
import { describe, expect, it } from "vitest";

const addon =
  process.env.LAZULI_ADDON || fileURLToPath(new URL("../../../build/Release/lazuli.node", import.meta.url));

const graph = buildGraph(() => {
  const x = input([], { index: 0, shape: [1 << 20], dtype: "float32" });
  return ops.tanh([x], {});
});
const isInput = (node: Node): boolean => node.op.name === "input";
const nodes = graph.nodes.filter((node) => !isInput(node));
const { words } = encodeNodes(nodes, graph.outputs, { isInput, inputs: graph.inputs });

// The addon alone, in a process of its own, with ten runs on their way.
const prelude = `
  const { NativeDevice } = require(${JSON.stringify(addon)});
  const { Worker } = require("node:worker_threads");
  const device = new NativeDevice("cpu", {});
  const { id } = device.compile(Uint32Array.of(${words.join()}), false);
  device.upload(0, new Float32Array(1 << 20));
  const runs = [];
  for (let i = 0; i < 10; i++) runs.push(device.run(id, [i], [i + 1], false));
`;

function node(script: string): { status: number | null; out: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, ["-e", prelude + script], {
    encoding: "utf8",
  });
  return { status, out: `${stdout}${stderr}` };
}

describe("a process", { timeout: 30_000 }, () => {
  it("stays until what is pending has settled, and no longer", () => {
    expect(node(`Promise.all(runs).then((all) => console.log(all.length, "settled"));`)).toEqual({
      status: 0,
      out: "10 settled\n",
    });
  });

  it("may exit while work is pending", () => {
    expect(node("process.exit(3);")).toEqual({ status: 3, out: "" });
  });

  it("may die of an error while work is pending", () => {
    const { status, out } = node(`throw new Error("on purpose");`);
    expect(status).toBe(1);
    expect(out).toContain("on purpose");
  });

  it("may end a worker while its work is pending", () => {
    const script = `
      const workers = [1, 2].map(() => new Worker(${JSON.stringify(prelude)}, { eval: true }));
      Promise.all(runs)
        .then(() => Promise.all(workers.map((worker) => worker.terminate())))
        .then(() => console.log("ended"));
    `;
    expect(node(script)).toEqual({ status: 0, out: "ended\n" });
  });
});
