import { mkdtemp, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type Checkpoint, loadCheckpoint, saveCheckpoint, tensor } from "../src/index.js";
import { useMemoryDevice } from "./memory_device.js";

let folder = "";
beforeEach(async () => {
  useMemoryDevice();
  folder = await mkdtemp(join(tmpdir(), "lazuli-checkpoint-"));
});
afterEach(() => rm(folder, { recursive: true }));

const checkpoint = (step: number): Checkpoint => ({
  model: new Map([["w", tensor([step, 1])]]),
  optimizer: new Map([
    ["w.exp_avg", tensor([step, 2])],
    ["step", tensor(step)],
  ]),
  training: { step, seed: 7, config: { hidden_size: 2 } },
});

const stepsOf = async (): Promise<(number | undefined)[]> => {
  const { model, optimizer, training } = await loadCheckpoint(folder);
  return [(await model.get("w")?.data())?.[0] as number, await optimizer.get("step")?.item(), training.step];
};

describe("checkpoint", () => {
  it("round trip, again and again, beside other files", async () => {
    await writeFile(join(folder, "notes.txt"), "mine");
    for (const step of [1, 2, 3]) {
      await saveCheckpoint(folder, checkpoint(step));
      expect(await stepsOf()).toEqual([step, step, step]);
    }
    expect((await loadCheckpoint(folder)).training).toEqual({ step: 3, seed: 7, config: { hidden_size: 2 } });
    const files = ["model.safetensors", "notes.txt", "optimizer.safetensors", "training.json"];
    expect((await readdir(folder)).sort()).toEqual(files);
  });

  it("is whole wherever a save is cut off", async () => {
    const old = ["model.safetensors", "optimizer.safetensors", "training.json"] as const;
    await saveCheckpoint(folder, checkpoint(1));
    const before = await Promise.all(old.map((name) => readFile(join(folder, name))));
    await saveCheckpoint(folder, checkpoint(2));
    const after = await Promise.all(old.map((name) => readFile(join(folder, name))));
    const id = JSON.parse(after[2].toString()).checkpoint;

    // Written, not current yet.
    for (const [i, name] of old.entries()) await writeFile(join(folder, name), before[i]);
    await writeFile(join(folder, `model.safetensors.${id}`), after[0]);
    expect(await stepsOf()).toEqual([1, 1, 1]);
    await writeFile(join(folder, `optimizer.safetensors.${id}`), after[1]);
    expect(await stepsOf()).toEqual([1, 1, 1]);
    // Current, not named yet.
    await writeFile(join(folder, "training.json"), after[2]);
    expect(await stepsOf()).toEqual([2, 2, 2]);
    await rename(join(folder, `model.safetensors.${id}`), join(folder, "model.safetensors"));
    expect(await stepsOf()).toEqual([2, 2, 2]);
    // The next save tidies up.
    await writeFile(join(folder, "model.safetensors.0123456789abcdef"), "left over");
    await saveCheckpoint(folder, checkpoint(3));
    expect(await stepsOf()).toEqual([3, 3, 3]);
    expect((await readdir(folder)).sort()).toEqual([...old]);
  });

  it("refuses a mixture", async () => {
    await saveCheckpoint(folder, checkpoint(1));
    const old = await readFile(join(folder, "optimizer.safetensors"));
    await saveCheckpoint(folder, checkpoint(2));
    await writeFile(join(folder, "optimizer.safetensors"), old);
    await expect(loadCheckpoint(folder)).rejects.toThrow(
      /optimizer.safetensors is missing or of another checkpoint/,
    );
  });

  it.each([
    ["{", /training.json: not valid JSON/],
    ["null", /training.json: step is undefined/],
    ['{"step": -1, "seed": 0, "config": {}, "checkpoint": "0123456789abcdef"}', /step is -1/],
    ['{"step": 1, "seed": 0.5, "config": {}, "checkpoint": "0123456789abcdef"}', /seed is 0.5/],
    ['{"step": 1, "seed": 0, "config": [], "checkpoint": "0123456789abcdef"}', /config is no JSON object/],
    ['{"step": 1, "seed": 0, "config": {}, "checkpoint": "../../0123456789"}', /no checkpoint id/],
  ])("refuses training.json %s", async (text, message) => {
    await saveCheckpoint(folder, checkpoint(1));
    await writeFile(join(folder, "training.json"), text);
    await expect(loadCheckpoint(folder)).rejects.toThrow(message);
  });

  it("names what is missing", async () => {
    await expect(loadCheckpoint(folder)).rejects.toThrow(/training.json: cannot be read: no such file/);
  });
});
