export {
  type Checkpoint,
  type CheckpointTargets,
  loadCheckpoint,
  saveCheckpoint,
  type TrainingState,
} from "./checkpoint.js";
export { writeFileAtomically } from "./files.js";
export { loadNpy, type NpyData, NpyReader, saveNpy } from "./npy.js";
export {
  loadSafetensors,
  type PlacementByName,
  placedAs,
  SafetensorsReader,
  saveSafetensors,
} from "./safetensors.js";
export type { TensorEntry } from "./safetensors_header.js";
