import type { Node } from "@lazuli/fx-trace";
import type { DeviceBuffer } from "./buffer.js";

/** Which random numbers are drawn next: every step has a key, every call in it a stream of its own. */
export class RandomState {
  private steps = 0;
  private stream = 0;
  private current: Node | null = null;

  /** `upload` puts a key on the device. */
  constructor(
    private readonly seed: number,
    private readonly upload: (words: BigInt64Array) => Node,
  ) {}

  /** The key of the step that is recorded; null where it draws nothing so far. */
  get key(): Node | null {
    return this.current;
  }

  /** The step's key and a stream no other call of the step has. The key is an input: new numbers never recompile. */
  next(): { key: Node; stream: number } {
    if (!this.current || (this.current.storage as DeviceBuffer).state !== "live")
      this.current = this.newKey();
    return { key: this.current, stream: this.stream++ };
  }

  /** The key of another step. */
  newKey(): Node {
    return this.upload(new BigInt64Array([BigInt(this.seed), BigInt(this.steps++)]));
  }

  endStep(): void {
    this.current = null;
    this.stream = 0;
  }
}
