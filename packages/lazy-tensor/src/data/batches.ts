import { tensor } from "../creation.js";
import { FileFormatError } from "../errors.js";
import { NpyReader } from "../io/npy.js";
import type { Tensor } from "../tensor.js";
import { HostRandom } from "./random.js";

/** Batches of token ids by step, int32 [batch, seq + 1]: inputs and, shifted by one, targets. */
export interface Batches {
  readonly batch: number;
  readonly seq: number;
  /** How many there are; Infinity where they are drawn at random. */
  readonly steps: number;
  /** The batch of step `step`, counted from 0; the same one whenever it is asked for. */
  at(step: number): Promise<Tensor>;
}

export interface BatchShape {
  readonly batch: number;
  readonly seq: number;
}

/** Windows of a token stream at random places, drawn anew each step from `seed`. */
export class RandomBatches implements Batches {
  readonly batch: number;
  readonly seq: number;
  readonly steps = Number.POSITIVE_INFINITY;

  /** `name` says in errors where the stream came from. Throws FileFormatError for one shorter than a window. */
  constructor(
    private readonly stream: Uint8Array,
    private readonly options: BatchShape & { readonly seed: number; readonly name?: string },
  ) {
    this.batch = options.batch;
    this.seq = options.seq;
    if (stream.length <= options.seq) {
      const name = options.name ?? "the data";
      throw new FileFormatError(
        "data",
        `${name}: ${stream.length} tokens are too few for windows of ${options.seq + 1}`,
      );
    }
  }

  async at(step: number): Promise<Tensor> {
    const length = this.seq + 1;
    const random = new HostRandom(this.options.seed, step * this.batch);
    const ids = new Int32Array(this.batch * length);
    for (let row = 0; row < this.batch; row++) {
      const start = Math.floor(random.next() * (this.stream.length - length + 1));
      ids.set(this.stream.subarray(start, start + length), row * length);
    }
    return tensor(ids, { shape: [this.batch, length] });
  }
}

/** The batches of an .npy file, int32 [steps, batch, seq + 1], in order. Close it, or hold it by `await using`. */
export class NpyBatches implements Batches, AsyncDisposable {
  readonly steps: number;
  readonly batch: number;
  readonly seq: number;

  private constructor(private readonly reader: NpyReader) {
    const [steps, batch, length] = reader.shape;
    this.steps = steps;
    this.batch = batch;
    this.seq = length - 1;
  }

  /** Throws FileFormatError for a file of another dtype or shape, or with an id that is not below `vocabSize`. */
  static async open(path: string, vocabSize: number): Promise<NpyBatches> {
    const reader = await NpyReader.open(path);
    try {
      await checkIds(reader, vocabSize);
    } catch (error) {
      await reader.close();
      throw error;
    }
    return new NpyBatches(reader);
  }

  async at(step: number): Promise<Tensor> {
    const { path, shape } = this.reader;
    if (step >= this.steps) {
      throw new FileFormatError("data", `${path}: has ${this.steps} batches, none for step ${step + 1}`);
    }
    return tensor(await this.reader.rows(step, 1), { shape: shape.slice(1) });
  }

  close(): Promise<void> {
    return this.reader.close();
  }
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

async function checkIds(reader: NpyReader, vocabSize: number): Promise<void> {
  const { path, dtype, shape } = reader;
  if (dtype !== "int32" || shape.length !== 3 || shape[0] < 1 || shape[1] < 1 || shape[2] < 2) {
    throw new FileFormatError(
      "data",
      `${path}: holds ${dtype} [${shape}], not int32 [steps, batch, seq + 1]`,
    );
  }
  for (let step = 0; step < shape[0]; step++) {
    for (const id of await reader.rows(step, 1)) {
      if (id >= 0 && id < vocabSize) continue;
      throw new FileFormatError(
        "data",
        `${path}: token ${id} in batch ${step} is not among the model's ${vocabSize}`,
      );
    }
  }
}
