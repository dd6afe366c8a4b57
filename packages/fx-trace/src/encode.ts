import { type DType, dtypeInfo } from "./dtype.js";
import { GraphError } from "./errors.js";
import { nextWalk } from "./graph.js";
import type { Node } from "./node.js";
import type { AttrKind, AttrValue } from "./opdef.js";
import type { TensorType } from "./shape.js";

/** First word of every program. docs/ir.md describes the rest. */
export const PROGRAM_MAGIC = 0x4c5a4c31;
export const PROGRAM_VERSION = 1;

const doubleView = new Float64Array(1);
const wordView = new Uint32Array(doubleView.buffer);

/** A growable run of 32-bit words. */
export class WordWriter {
  private words = new Uint32Array(1 << 12);
  length = 0;

  push(word: number): void {
    if (this.length === this.words.length) this.grow(this.length + 1);
    this.words[this.length++] = word;
  }

  /** A safe integer as 64-bit two's complement: low word, high word. */
  pushInt(value: number): void {
    this.push(value >>> 0);
    this.push(Math.floor(value / 0x1_0000_0000) >>> 0);
  }

  pushDouble(value: number): void {
    doubleView[0] = value;
    this.push(wordView[0]);
    this.push(wordView[1]);
  }

  pushBytes(bytes: Uint8Array): void {
    this.push(bytes.length);
    const count = (bytes.length + 3) >> 2;
    this.grow(this.length + count);
    const padded = new Uint8Array(this.words.buffer, this.length * 4, count * 4);
    padded.fill(0);
    padded.set(bytes);
    this.length += count;
  }

  pushType(type: TensorType): void {
    this.push(dtypeInfo[type.dtype].code);
    const shape = type.shape;
    this.push(shape.length);
    for (let i = 0; i < shape.length; i++) this.push(shape[i]);
  }

  append(other: WordWriter): void {
    this.grow(this.length + other.length);
    this.words.set(other.words.subarray(0, other.length), this.length);
    this.length += other.length;
  }

  /** A view of what was written; valid until the next write. */
  view(): Uint32Array {
    return this.words.subarray(0, this.length);
  }

  reset(): void {
    this.length = 0;
  }

  private grow(needed: number): void {
    if (needed <= this.words.length) return;
    const bigger = new Uint32Array(Math.max(needed, this.words.length * 2));
    bigger.set(this.words.subarray(0, this.length));
    this.words = bigger;
  }
}

function pushAttr(out: WordWriter, kind: AttrKind, value: AttrValue): void {
  switch (kind) {
    case "int":
      out.pushInt(value as number);
      return;
    case "float":
      out.pushDouble(value as number);
      return;
    case "bool":
      out.push(value ? 1 : 0);
      return;
    case "ints": {
      const list = value as readonly number[];
      out.push(list.length);
      for (let i = 0; i < list.length; i++) out.pushInt(list[i]);
      return;
    }
    case "dtype":
      out.push(dtypeInfo[value as DType].code);
      return;
    case "bytes":
      out.pushBytes(value as Uint8Array);
      return;
    default:
      out.push(kind.indexOf(value as string));
  }
}

export interface Encoded {
  /** The program. A view into a shared buffer: copy it to keep it. */
  readonly words: Uint32Array;
  /** Values that come from outside, in the order of the program's inputs. */
  readonly inputs: readonly Node[];
}

const header = new WordWriter();
const body = new WordWriter();

export interface EncodeOptions {
  /** Nodes whose value comes from outside; they become inputs of the program, numbered by first use. */
  readonly isInput: (node: Node) => boolean;
  /** Inputs numbered ahead of any use, in this order. */
  readonly inputs?: readonly Node[];
  /** Whether the program may overwrite the input. */
  readonly isDonated?: (input: Node, index: number) => boolean;
}

/** Encodes `nodes` (inputs before users) as words: the key of a recorded graph, and what the native compiler reads. */
export function encodeNodes(
  nodes: readonly Node[],
  outputs: readonly Node[],
  options: EncodeOptions,
): Encoded {
  const { isInput, isDonated } = options;
  const walk = nextWalk();
  const inputs: Node[] = [];
  let count = 0;
  body.reset();
  const addInput = (node: Node): void => {
    node.walk = walk;
    node.index = inputs.push(node) * 2 - 1;
  };
  // A reference is position * 2, plus 1 for inputs.
  const reference = (node: Node): number => {
    if (node.walk !== walk) {
      if (!isInput(node))
        throw new GraphError(node.op.name, `node ${node.id} is used but not in the program`, node.scope);
      addInput(node);
    }
    return node.index;
  };
  options.inputs?.forEach(addInput);
  for (let i = 0; i < nodes.length; i++) {
    const node = nodes[i];
    if (isInput(node)) continue;
    body.push(node.op.code);
    body.push(node.inputs.length);
    for (let k = 0; k < node.inputs.length; k++) body.push(reference(node.inputs[k]));
    body.push(node.types.length);
    for (let k = 0; k < node.types.length; k++) body.pushType(node.types[k]);
    const schema = node.op.attrSchema;
    for (const name in schema) pushAttr(body, schema[name], node.attrs[name]);
    node.walk = walk;
    node.index = count++ * 2;
  }
  for (let i = 0; i < outputs.length; i++) body.push(reference(outputs[i]));
  header.reset();
  header.push(PROGRAM_MAGIC);
  header.push(PROGRAM_VERSION);
  header.push(inputs.length);
  header.push(count);
  header.push(outputs.length);
  for (let i = 0; i < inputs.length; i++) {
    header.pushType(inputs[i].type);
    header.push(isDonated?.(inputs[i], i) ? 1 : 0);
  }
  header.append(body);
  return { words: header.view(), inputs };
}

/** FNV-1a over words. */
export function hashWords(words: Uint32Array): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < words.length; i++) hash = Math.imul(hash ^ words[i], 0x01000193);
  return hash >>> 0;
}
