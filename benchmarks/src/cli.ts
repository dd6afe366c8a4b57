import { program, runProgram, UsageError } from "@lazuli/examples/llama/cli.js";
import { isPreset, type PresetName, preset, presetNames } from "@lazuli/examples/llama/config.js";
import { InvalidArgumentError, Option } from "commander";
import { compare, formatComparison, type PeerName, peerNames } from "./compare.js";
import { compileBenchmark } from "./compile.js";
import {
  attentionBenchmark,
  bandwidthBenchmark,
  fusionBenchmark,
  maskNames,
  matmulBenchmark,
} from "./kernels.js";
import type { Result } from "./measure.js";
import { planBenchmark } from "./plan.js";
import { profileBenchmark } from "./profile.js";
import { prologueBenchmark } from "./prologue.js";
import { dispatchUs, replayBenchmark, traceBenchmark } from "./record.js";
import { trainBenchmark } from "./train.js";

function count(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1)
    throw new InvalidArgumentError("It is not a whole number of at least 1.");
  return value;
}

function config(name: string): PresetName {
  if (!isPreset(name)) throw new InvalidArgumentError(`It is not one of ${presetNames.join(", ")}.`);
  return name;
}

function peers(text: string): PeerName[] {
  return text.split(",").map((name) => {
    const known = peerNames.find((peer) => peer === name);
    if (!known) throw new UsageError(`--peers ${text}: ${name} is not one of ${peerNames.join(", ")}`);
    return known;
  });
}

const dtypes = ["float32", "bfloat16", "float16"] as const;
const dtype = (): Option => new Option("--dtype <name>").choices(dtypes).default("float32");

/** One line of JSON, or a line a result. */
function print(result: Result, json: boolean): void {
  const lines = Object.entries(result).map(([key, value]) => `${key.padEnd(26)} ${value}`);
  console.log(json ? JSON.stringify(result) : lines.join("\n"));
}

const cli = program("bench").description(
  "Measures Lazuli; every benchmark prints one line of JSON with --json.",
);
const bench = (name: string, description: string) =>
  cli.command(name).description(description).option("--json", "one line of JSON");
const training = (name: string, description: string) =>
  bench(name, description)
    .option("--config <name>", presetNames.join(", "), config, "15m")
    .addOption(dtype())
    .option("--steps <n>", "steps that count", count, 8)
    .option("--warmup <n>", "steps before them", count, 3);

training("train", "training steps of a Llama on random ids").action(async ({ json, ...options }) =>
  print(await trainBenchmark(options), json),
);
training("profile", "time, GFLOP/s and GB/s of a training step's kernels, against the machine's ceilings")
  .option("--top <n>", "kernels shown", count, 25)
  .action(async ({ json, ...options }) => {
    const { result, table } = await profileBenchmark(options);
    if (!json) console.log(`${table}\n`);
    print(result, json);
  });
training(
  "prologue",
  "a forward pass and a training step, norms made for their products and apart, in turn",
).action(async ({ json, ...options }) => print(await prologueBenchmark(options), json));
bench("trace", "recording a deep decoder, and dispatch")
  .option("--layers <n>", "decoder layers", count, 100)
  .action(async ({ json, layers }) => print(await traceBenchmark({ layers }), json));
bench("compile", "compiling a training step of a deep decoder")
  .option("--layers <n>", "decoder layers", count, 32)
  .action(async ({ json, layers }) => print(await compileBenchmark({ layers }), json));
bench("dispatch", "a cached step of x + 1").action(async ({ json }) =>
  print({ dispatch_us: await dispatchUs() }, json),
);
bench("replay", "host time of a compiled training step")
  .option("--config <name>", presetNames.join(", "), config, "15m")
  .addOption(
    new Option("--device <name>", "null computes nothing").choices(["null", "cpu", "cuda"]).default("null"),
  )
  .option("--steps <n>", "steps, of which the first third does not count", count, 3000)
  .action(async ({ json, ...options }) => print(await replayBenchmark(options), json));
bench("fusion", "silu(x) * y + x against the machine's copy bandwidth").action(async ({ json }) =>
  print(await fusionBenchmark(), json),
);
bench("bandwidth", "elementwise and norm kernels, GB/s of what they must move")
  .option("--elements <n>", "of one tensor", count, 2 ** 26)
  .action(async ({ json, ...options }) => print(await bandwidthBenchmark(options), json));
bench("attention", "causal attention and its gradients")
  .option("--batch <n>", "sequences", count, 8)
  .option("--heads <n>", "heads", count, 6)
  .option("--seq <n>", "positions", count, 256)
  .option("--head-dim <n>", "size of a head", count, 48)
  .option("--window <n>", "keys that a query sees (default: all before it)", count)
  .addOption(new Option("--mask <kind>", "what else hides keys or is added").choices(maskNames))
  .addOption(dtype())
  .action(async ({ json, ...shape }) => print(await attentionBenchmark(shape), json));
bench("matmul", "matrix products")
  .addOption(dtype())
  .action(async ({ json, ...options }) => print(await matmulBenchmark(options), json));
bench("plan", "partitions a training step for a mesh that need not be there; nothing is computed")
  .option("--config <name>", presetNames.join(", "), config, "7b")
  .option("--mesh <axes>", "devices by axis", "fsdp=8,tensor=8")
  .option("--strategy <names>", "as npm run train's", "fsdp,tp+sp")
  .option("--batch <n>", "sequences a step (default: one by device of the batch axes)", count)
  .option("--explain", "the table of collectives")
  .action(async ({ json, explain, config: name, ...options }) => {
    const chosen = preset(name);
    const { result, explanation } = await planBenchmark({
      config: chosen.config,
      seq: chosen.seq,
      ...options,
    });
    if (explain) console.log(String(explanation));
    print(result, json);
  });
training("compare", "training beside PyTorch and JAX (PEER_PYTHON: a python that has them)")
  .option("--rounds <n>", "runs of each, in turn", count, 3)
  .option("--peers <names>", `of ${peerNames.join(",")}`, peers, [...peerNames])
  .option("--peer-dir <folder>", "where the peers' scripts are", process.env.PEER_DIR ?? "../shared/peers")
  .action(async ({ json, ...options }) => {
    const onRun = (name: string, round: number, line: Result): void => {
      process.stderr.write(`round ${round}: ${name} ${line.step_ms} ms a step\n`);
    };
    const rows = await compare({ ...options, onRun });
    console.log(json ? JSON.stringify(rows) : formatComparison(rows));
  });

await runProgram("bench", async () => {
  await cli.parseAsync();
});
