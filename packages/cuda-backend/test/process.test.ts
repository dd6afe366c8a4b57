import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { ops } from "@lazuli/fx-trace";
import { describe, expect, it } from "vitest";
import { f32, program } from "./programs.js";

const addon =
  process.env.LAZULI_ADDON || fileURLToPath(new URL("../../../build/Release/lazuli.node", import.meta.url));

const big = f32(1 << 20);
const words = program([big], (x) => ops.tanh([x], {}));
const reduce = program([big], (x) => ops.all_reduce([x], { mesh: [4], axes: [0], kind: "max" }));

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

  it("may exit while virtual devices wait for each other", () => {
    const script = `
      const four = new NativeDevice("cpu", { virtualDevices: 4 });
      const reduce = four.compile(Uint32Array.of(${reduce.join()}), false).id;
      four.upload(0, new Float32Array(1 << 20));
      for (let i = 0; i < 50; i++) four.run(reduce, [i], [i + 1], false);
      setTimeout(() => process.exit(3), 5);
    `;
    expect(node(script)).toEqual({ status: 3, out: "" });
  });

  it("may die of an error while work is pending", () => {
    const { status, out } = node(`throw new Error("on purpose");`);
    expect(status).toBe(1);
    expect(out).toContain("on purpose");
  });

  it("may end a worker while its work is pending", () => {
    const script = `
      const workers = [0, 1, 2, 3, 4].map(() => new Worker(${JSON.stringify(prelude)}, { eval: true }));
      // Some while they start, some while results come, which nothing can take any more.
      const end = (worker, i) => new Promise((after) => setTimeout(after, 8 * i)).then(() => worker.terminate());
      Promise.all(runs)
        .then(() => Promise.all(workers.map(end)))
        .then(() => console.log("ended"));
    `;
    expect(node(script)).toEqual({ status: 0, out: "ended\n" });
  });
});
