import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { describe, expect, it, vi } from "vitest";

vi.setConfig({ testTimeout: 60_000 });

const script = fileURLToPath(new URL("../dist/cli.js", import.meta.url));

function bench(
  args: string,
  env: Record<string, string> = {},
): { code: number | null; out: string; err: string } {
  const { PEER_PYTHON: _, ...rest } = process.env;
  const run = spawnSync(process.execPath, [script, ...args.split(" ")], {
    encoding: "utf8",
    env: { ...rest, ...env },
  });
  return { code: run.status, out: run.stdout, err: run.stderr };
}

describe("bench", () => {
  it.each<[string, Record<string, string>, RegExp]>([
    ["nothing", {}, /unknown command 'nothing'/],
    ["train --config big", {}, /It is not one of tiny, 15m/],
    ["train --steps 0", {}, /It is not a whole number of at least 1/],
    ["matmul --dtype int8", {}, /Allowed choices are float32/],
    ["compare --peers pytorch", {}, /pytorch is not one of torch, torch-compile, jax/],
    ["compare", {}, /PEER_PYTHON is not set: name a python that has torch and jax/],
    ["compare", { PEER_PYTHON: "/none/python" }, /PEER_PYTHON: there is no \/none\/python/],
    ["compare --peer-dir /none", { PEER_PYTHON: process.execPath }, /\/none: has no torch_llama.py/],
  ])("%s %j", (args, env, message) => {
    const { code, out, err } = bench(args, env);
    expect(err).toMatch(message);
    expect(err.trimEnd().split("\n")).toHaveLength(1);
    expect({ code, out }).toEqual({ code: 2, out: "" });
  });

  it("train prints one line of JSON with the peers' keys", () => {
    const { code, out } = bench("train --json --config tiny --steps 1 --warmup 1");
    expect(code).toBe(0);
    expect(out.trim().split("\n")).toHaveLength(1);
    const keys = [
      "peer",
      "version",
      "config",
      "dtype",
      "compile",
      "params_m",
      "tokens_per_s",
      "step_ms",
      "first_step_s",
      "peak_mb",
      "losses",
    ];
    expect(Object.keys(JSON.parse(out))).toEqual(keys);
  });

  it("bandwidth measures kernels by their own time", () => {
    const { code, out, err } = bench("bandwidth --json --elements 8192");
    expect(code, err).toBe(0);
    const { elements, ...rates } = JSON.parse(out);
    expect(elements).toBe(8192);
    expect(Object.keys(rates)).toHaveLength(8);
    for (const rate of Object.values(rates)) expect(rate).toBeGreaterThan(0);
  });

  it("trace records forward and backward without a run", () => {
    const { code, out } = bench("trace --json --layers 16");
    expect(code).toBe(0);
    const result = JSON.parse(out);
    expect(result.nodes).toBeGreaterThan(800);
    for (const name of ["forward_trace_ms", "forward_backward_trace_ms", "symbolic_trace_best_ms"])
      expect(result[name], name).toBeGreaterThan(0);
    expect(result.graph_nodes).toBeGreaterThan(480);
  });
});
