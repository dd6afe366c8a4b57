export { type Batches, type BatchShape, NpyBatches, RandomBatches } from "./batches.js";
export { HostRandom } from "./random.js";
export { type ByteStream, findFiles, openText, readText, splitHeldOut } from "./text.js";
export { byteTokenizer } from "./tokenizer.js";
