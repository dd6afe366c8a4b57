import { type Graph, GraphBuilder, walkNodes } from "../graph.js";
import type { Node } from "../node.js";
import type { AttrValue } from "../opdef.js";
import type { Pass } from "./pass.js";
import { withInputs } from "./rewrite.js";

const doubles = new Float64Array(1);
const words = new Uint32Array(doubles.buffer);

const mix = (hash: number, word: number): number => Math.imul(hash ^ word, 0x01000193);

function mixNumber(hash: number, value: number): number {
  if ((value | 0) === value) return mix(hash, value);
  doubles[0] = value;
  return mix(mix(hash, words[0]), words[1]);
}

function mixAttr(hash: number, value: AttrValue): number {
  switch (typeof value) {
    case "number":
      return mixNumber(hash, value);
    case "boolean":
      return mix(hash, value ? 1 : 0);
    case "string": {
      let mixed = hash;
      for (let i = 0; i < value.length; i++) mixed = mix(mixed, value.charCodeAt(i));
      return mixed;
    }
    default: {
      let mixed = mix(hash, value.length);
      // Equality is decided by comparing; a prefix keeps large constants cheap.
      for (let i = 0; i < value.length && i < 32; i++) mixed = mixNumber(mixed, value[i]);
      return mixed;
    }
  }
}

function sameAttr(a: AttrValue, b: AttrValue): boolean {
  if (Object.is(a, b)) return true;
  if (typeof a !== "object" || typeof b !== "object" || a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (!Object.is(a[i], b[i])) return false;
  return true;
}

/** Ops whose operands may change places without changing a bit of the result. */
export const commutative: ReadonlySet<string> = new Set([
  "add",
  "mul",
  "maximum",
  "minimum",
  "eq",
  "ne",
  "logical_and",
  "logical_or",
  "logical_xor",
]);

const swaps = (node: Node): boolean => node.inputs.length === 2 && commutative.has(node.op.name);

function hashOf(node: Node): number {
  const { inputs, op, attrs } = node;
  let hash = mix(0x811c9dc5, op.code);
  if (swaps(node)) {
    const [a, b] = inputs;
    hash = mix(mix(hash, Math.min(a.id, b.id)), Math.max(a.id, b.id));
  } else {
    for (let i = 0; i < inputs.length; i++) hash = mix(hash, inputs[i].id);
  }
  for (const name in op.attrSchema) hash = mixAttr(hash, attrs[name]);
  return hash;
}

function sameOperands(a: Node, b: Node): boolean {
  const [as, bs] = [a.inputs, b.inputs];
  if (as.length !== bs.length) return false;
  let same = true;
  for (let i = 0; i < as.length && same; i++) same = as[i] === bs[i];
  return same || (swaps(a) && as[0] === bs[1] && as[1] === bs[0]);
}

function sameCall(a: Node, b: Node): boolean {
  if (a.op !== b.op || !sameOperands(a, b)) return false;
  for (const name in a.op.attrSchema) if (!sameAttr(a.attrs[name], b.attrs[name])) return false;
  return true;
}

/** Merges nodes that compute the same value into the first of them. Random draws are never merged. */
export const cse: Pass = function cse(graph: Graph): Graph {
  const builder = new GraphBuilder();
  walkNodes(graph.nodes);
  const kept: Node[] = [];
  const seen = new Map<number, Node>();
  const lookup = (node: Node): Node => kept[node.index];
  for (let i = 0; i < graph.nodes.length; i++) {
    const original = graph.nodes[i];
    const node = withInputs(original, lookup);
    const twin = node.op.unique ? undefined : firstOf(node, seen);
    kept[i] = twin ?? node;
    if (!twin) builder.add(node);
  }
  return builder.finish(graph.outputs.map(lookup));
};

/** The call seen before that equals `node`; else notes it. Hashes that collide take the next free number. */
function firstOf(node: Node, seen: Map<number, Node>): Node | undefined {
  for (let key = hashOf(node); ; key++) {
    const other = seen.get(key);
    if (!other) {
      seen.set(key, node);
      return undefined;
    }
    if (sameCall(other, node)) return other;
  }
}
