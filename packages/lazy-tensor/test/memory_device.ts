import { createContainer, Engine, TOKENS, useEngine } from "../src/index.js";

/** A device that holds bytes and runs nothing: enough for what only stores and loads tensors. */
class MemoryDevice {
  readonly deviceCount = 1;
  readonly localDevices = [0];
  private readonly buffers = new Map<number, Uint8Array>();

  upload(id: number, bytes: ArrayBufferView): void {
    this.buffers.set(id, new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength).slice());
  }
  async download(id: number, target: ArrayBufferView): Promise<void> {
    const source = this.buffers.get(id) as Uint8Array;
    new Uint8Array(target.buffer, target.byteOffset, target.byteLength).set(source);
  }
  free(ids: readonly number[]): void {
    for (const id of ids) this.buffers.delete(id);
  }
  run(): never {
    throw new Error("MemoryDevice runs nothing");
  }
}

/** Makes an engine on a memory device the one that records. */
export function useMemoryDevice(): void {
  const container = createContainer();
  container.register(TOKENS.device, { useValue: new MemoryDevice() });
  useEngine(container.resolve(Engine));
}
