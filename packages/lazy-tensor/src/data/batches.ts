import { tensor } from "../creation.js";
import { FileFormatError } from "../errors.js";
import { type NpyData, NpyReader } from "../io/npy.js";
import { isRank } from "../job.js";
import { type PartIndex, type Placement, tensorFromCallback } from "../sharding/parts.js";
import type { Tensor } from "../tensor.js";
import { HostRandom } from "./random.js";
import type { ByteStream } from "./text.js";

/** Batches of token ids by step, int32 [batch, seq + 1]: inputs and, shifted by one, targets. */
export interface Batches extends AsyncDisposable {
  readonly batch: number;
  readonly seq: number;
  /** How many there are; Infinity where they are drawn at random. */
  readonly steps: number;
  /**
   * The batch of step `step`, counted from 0; the same one whenever it is asked for. With a placement it lies over the mesh,
   * and a process reads no more than its devices hold.
   */
  at(step: number, placement?: Placement | null): Promise<Tensor>;
}

export interface BatchShape {
  readonly batch: number;
  readonly seq: number;
}

/** A batch of which `part` gives the ids of any part. */
async function batchOf(
  { batch, seq }: BatchShape,
  placement: Placement | null,
  part: (index: PartIndex) => Int32Array | Promise<Int32Array>,
): Promise<Tensor> {
  const shape = [batch, seq + 1];
  return placement
    ? tensorFromCallback(shape, "int32", placement.mesh, placement.spec, part)
    : tensor(await part({ start: [0, 0], shape }), { shape });
}

/** Windows of a token stream at random places, drawn anew each step from `seed`. */
export class RandomBatches implements Batches {
  readonly batch: number;
  readonly seq: number;
  readonly steps = Number.POSITIVE_INFINITY;

  /** `name` says in errors where the stream came from. Throws FileFormatError for one shorter than a window. */
  constructor(
    private readonly stream: Uint8Array | ByteStream,
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

  at(step: number, placement: Placement | null = null): Promise<Tensor> {
    const { stream } = this;
    return batchOf(this, placement, async ({ start: [row, column], shape: [rows, columns] }) => {
      const random = new HostRandom(this.options.seed, step * this.batch + row);
      const ids = new Int32Array(rows * columns);
      for (let i = 0; i < rows; i++) {
        const start = Math.floor(random.next() * (stream.length - this.seq)) + column;
        const window =
          stream instanceof Uint8Array
            ? stream.subarray(start, start + columns)
            : await stream.read(start, columns);
        ids.set(window, i * columns);
      }
      return ids;
    });
  }

  /** Holds nothing that must be closed. */
  async [Symbol.asyncDispose](): Promise<void> {}
}

/** The batches of an .npy file, int32 [steps, batch, seq + 1], in order. Close it, or hold it by `await using`. */
export class NpyBatches implements Batches {
  readonly steps: number;
  readonly batch: number;
  readonly seq: number;

  private constructor(
    private readonly reader: NpyReader,
    private readonly vocabSize: number,
  ) {
    const [steps, batch, length] = reader.shape;
    this.steps = steps;
    this.batch = batch;
    this.seq = length - 1;
  }

  /**
   * Throws FileFormatError for a file of another dtype or shape, or with an id that is not below `vocabSize`. One process of
   * several checks the ids it reads when it reads them.
   */
  static async open(path: string, vocabSize: number): Promise<NpyBatches> {
    const reader = await NpyReader.open(path);
    try {
      checkType(reader);
      if (!isRank())
        for (let step = 0; step < reader.shape[0]; step++)
          checkIds(reader, vocabSize, step, await reader.rows(step, 1));
    } catch (error) {
      await reader.close();
      throw error;
    }
    return new NpyBatches(reader, vocabSize);
  }

  async at(step: number, placement: Placement | null = null): Promise<Tensor> {
    const { reader } = this;
    if (step >= this.steps) {
      throw new FileFormatError(
        "data",
        `${reader.path}: has ${this.steps} batches, none for step ${step + 1}`,
      );
    }
    return batchOf(this, placement, async ({ start, shape }) => {
      const ids = await reader.block([step, ...start], [1, ...shape]);
      checkIds(reader, this.vocabSize, step, ids);
      return ids as Int32Array;
    });
  }

  close(): Promise<void> {
    return this.reader.close();
  }
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

function checkType({ path, dtype, shape }: NpyReader): void {
  if (dtype !== "int32" || shape.length !== 3 || shape[0] < 1 || shape[1] < 1 || shape[2] < 2) {
    throw new FileFormatError(
      "data",
      `${path}: holds ${dtype} [${shape}], not int32 [steps, batch, seq + 1]`,
    );
  }
}

function checkIds({ path }: NpyReader, vocabSize: number, step: number, ids: NpyData): void {
  for (const id of ids) {
    if (id >= 0 && id < vocabSize) continue;
    throw new FileFormatError(
      "data",
      `${path}: token ${id} in batch ${step} is not among the model's ${vocabSize}`,
    );
  }
}
