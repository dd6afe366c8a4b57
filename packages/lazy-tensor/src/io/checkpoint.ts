import { randomBytes } from "node:crypto";
import { mkdir, readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { FileFormatError } from "../errors.js";
import { isFirstProcess } from "../runtime.js";
import type { Tensor } from "../tensor.js";
import { syncFolder, systemReason, writeFileAtomically } from "./files.js";
import { type PlacementByName, placedAs, SafetensorsReader, saveSafetensors } from "./safetensors.js";

// A checkpoint is three files of one id: training.json names it, the others carry it in their metadata. Saving writes
// the tensor files as `<name>.<id>`, then replaces training.json, which makes the checkpoint the current one, then gives
// them their names. Cut off anywhere, the folder still holds a whole checkpoint: the old one, or the new one of which a
// file has its id in the name.

/** What a training run needs to go on. */
export interface TrainingState {
  /** Steps taken. */
  readonly step: number;
  readonly seed: number;
  /** The model's configuration, as JSON. */
  readonly config: Readonly<Record<string, unknown>>;
}

export interface Checkpoint {
  readonly model: ReadonlyMap<string, Tensor>;
  readonly optimizer: ReadonlyMap<string, Tensor>;
  readonly training: TrainingState;
}

const modelFile = "model.safetensors";
const optimizerFile = "optimizer.safetensors";
const trainingFile = "training.json";

/** Saves into `folder`, made where missing; other files in it stay. An interrupted save leaves the one before. */
export async function saveCheckpoint(
  folder: string,
  { model, optimizer, training }: Checkpoint,
): Promise<void> {
  const writes = isFirstProcess();
  if (writes) {
    await mkdir(folder, { recursive: true });
    await finishInterrupted(folder);
  }
  const id = randomBytes(8).toString("hex");
  const states = [
    [modelFile, model],
    [optimizerFile, optimizer],
  ] as const;
  for (const [name, tensors] of states) {
    // "format" is what transformers asks of a model file.
    await saveSafetensors(join(folder, `${name}.${id}`), tensors, { format: "pt", checkpoint: id });
  }
  if (!writes) return;
  await writeFileAtomically(
    join(folder, trainingFile),
    `${JSON.stringify({ ...training, checkpoint: id }, null, 2)}\n`,
  );
  await takeNames(folder, id);
}

/** What a checkpoint is read for: its tensors are then read as those lie over the mesh, by each process its parts. */
export interface CheckpointTargets {
  readonly model?: { stateDict(): ReadonlyMap<string, Tensor> };
  readonly optimizer?: { placementOf: PlacementByName };
}

/** Reads what saveCheckpoint wrote. Throws FileFormatError. */
export async function loadCheckpoint(
  folder: string,
  { model, optimizer }: CheckpointTargets = {},
): Promise<Checkpoint> {
  const { id, training } = await readTraining(folder);
  return {
    model: await readState(folder, modelFile, id, model && placedAs(model.stateDict())),
    optimizer: await readState(folder, optimizerFile, id, (name, shape) =>
      optimizer ? optimizer.placementOf(name, shape) : null,
    ),
    training,
  };
}

async function takeNames(folder: string, id: string): Promise<void> {
  const names = await readdir(folder);
  for (const name of [modelFile, optimizerFile]) {
    if (names.includes(`${name}.${id}`)) await rename(join(folder, `${name}.${id}`), join(folder, name));
  }
  await syncFolder(folder);
}

/** Names the files of a save that was cut off after its training.json, and drops those of one cut off before. */
async function finishInterrupted(folder: string): Promise<void> {
  const names = await readdir(folder);
  if (names.includes(trainingFile)) {
    const current = await readTraining(folder).catch(() => null);
    if (current) await takeNames(folder, current.id);
  }
  const leftOver =
    /^(model|optimizer)\.safetensors\.[0-9a-f]{16}(\.\d+-\d+\.tmp)?$|^training\.json\.\d+-\d+\.tmp$/;
  for (const name of await readdir(folder)) if (leftOver.test(name)) await rm(join(folder, name));
}

async function readTraining(folder: string): Promise<{ id: string; training: TrainingState }> {
  const path = join(folder, trainingFile);
  const fail = (what: string, cause?: unknown): never => {
    throw new FileFormatError("checkpoint", `${path}: ${what}`, "", { cause });
  };
  const text = await readFile(path, "utf8").catch((error) =>
    fail(`cannot be read: ${systemReason(error)}`, error),
  );
  let json: Partial<TrainingState & { checkpoint: string }> = {};
  try {
    json = JSON.parse(text) ?? {};
  } catch (error) {
    fail(`not valid JSON: ${(error as Error).message}`, error);
  }
  const { step, seed, config, checkpoint } = json;
  if (!Number.isSafeInteger(step) || (step as number) < 0)
    fail(`step is ${JSON.stringify(step)}, no number of steps`);
  if (!Number.isSafeInteger(seed)) fail(`seed is ${JSON.stringify(seed)}, no whole number`);
  if (typeof config !== "object" || config === null || Array.isArray(config))
    fail("config is no JSON object");
  // The id becomes part of a file name.
  if (typeof checkpoint !== "string" || !/^[0-9a-f]{16}$/.test(checkpoint))
    fail("checkpoint is no checkpoint id");
  return { id: checkpoint as string, training: { step, seed, config } as TrainingState };
}

/** A tensor file of the checkpoint `id`, under its own name or, after an interrupted save, the one with the id. */
async function readState(
  folder: string,
  name: string,
  id: string,
  placementOf?: PlacementByName,
): Promise<Map<string, Tensor>> {
  const names = await readdir(folder);
  for (const candidate of [name, `${name}.${id}`]) {
    if (!names.includes(candidate)) continue;
    const reader = await SafetensorsReader.open(join(folder, candidate));
    try {
      if (reader.metadata.get("checkpoint") === id) return await reader.readAll(placementOf);
    } finally {
      await reader.close();
    }
  }
  throw new FileFormatError(
    "checkpoint",
    `${folder}: ${name} is missing or of another checkpoint than ${trainingFile}`,
  );
}
