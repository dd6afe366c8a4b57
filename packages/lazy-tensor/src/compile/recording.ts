import { input as inputOp, Node, type OpDef, sameShape, type TensorType } from "@lazuli/fx-trace";
import type { Dims } from "@lazuli/sharding";
import { DeviceBuffer } from "../buffer.js";
import type { Engine, TakenStep } from "../engine.js";
import type { CachedProgram } from "../program_cache.js";
import { treeMap } from "../pytree.js";
import { Tensor } from "../tensor.js";
import type { Call } from "./call.js";
import {
  type ArgGuard,
  argsDiffer,
  differs,
  type Expected,
  expectedOf,
  modulesDiffer,
  type Surroundings,
  sameLayout,
  surroundingsDiffer,
} from "./guards.js";
import { changedField, type Fields, type Observed } from "./observed.js";

/** A tensor that the function knows by itself, or the number of one it is given. */
type Ref = Tensor | number;

/** A tensor that the function knows by itself and reads. */
interface Known {
  readonly tensor: Tensor;
  readonly input: number;
  readonly expected: Expected;
  /** The node it had when it was looked at last. */
  node: Node | null;
}

/** A tensor whose new value is an output; in place where it keeps its buffer, input `input`. */
interface Update {
  readonly target: Ref;
  readonly output: number;
  readonly input: number;
  readonly inPlace: boolean;
  /** Whether the program takes the old value's memory. */
  readonly donates: boolean;
}

interface Gradient {
  readonly owner: Ref;
  /** Of the gradient it had before; null where it had none. */
  readonly expected: Expected | null;
  /** Where the program reads that gradient; -1 where it does not. */
  readonly input: number;
  /** What is left: a new gradient, by output; none; or what was there. */
  readonly after: number | "none" | "same";
}

/** A step that cannot be done again by running its program; the message says why. */
export class Unrepeatable extends Error {}

/** What a compiled function was recorded in and with. */
export interface Recorded {
  readonly around: Surroundings;
  readonly guard: ArgGuard;
  readonly call: Call;
  /** Of the tensors given, before the function ran. */
  readonly argNodes: readonly Node[];
  readonly observed: Observed;
  readonly taken: TakenStep;
  /** What the function returned. */
  readonly result: unknown;
  readonly results: readonly Tensor[];
}

const bufferOf = (node: Node): DeviceBuffer => node.storage as DeviceBuffer;

/** A value that is in `buffer`. */
export function nodeIn(buffer: DeviceBuffer): Node {
  const { shape, dtype } = buffer.type;
  const node = new Node(inputOp as unknown as OpDef, [], { index: 0, shape, dtype }, [buffer.type], "");
  node.storage = buffer;
  return node;
}

/** What a value's buffer is. */
interface Form {
  readonly type: TensorType;
  readonly layout: Dims | null;
}
const formOf = (node: Node): Form => ({ type: node.type, layout: bufferOf(node).layout });
const sameForm = (a: Form, b: Form): boolean =>
  a.type.dtype === b.type.dtype &&
  sameShape(a.type.shape, b.type.shape) &&
  sameLayout(a.layout, b.layout, a.type.shape.length);

/** Stands in a result for tensor `index`. */
class Hole {
  constructor(readonly index: number) {}
}

function fill(tree: unknown, tensors: readonly Tensor[]): unknown {
  if (tree instanceof Hole) return tensors[tree.index];
  if (Array.isArray(tree)) return tree.map((item) => fill(item, tensors));
  if (typeof tree !== "object" || tree === null || Object.getPrototypeOf(tree) !== Object.prototype)
    return tree;
  return Object.fromEntries(Object.entries(tree).map(([key, item]) => [key, fill(item, tensors)]));
}

function refOf({ call }: Recorded, tensor: Tensor): Ref {
  const arg = call.tensors.indexOf(tensor);
  return arg >= 0 && !tensor.isState ? arg : tensor;
}

function gradientOf(recorded: Recorded, owner: Tensor, before: Tensor | null): Gradient {
  const { taken, observed } = recorded;
  const now = Tensor.gradOf(owner);
  const node = before && (observed.reads.get(before) ?? Tensor.nodeOf(before));
  const output = now ? taken.outputs.indexOf(Tensor.nodeOf(now)) : -1;
  if (now && now !== before && output < 0)
    throw new Unrepeatable(`the gradient of ${owner} is set to a value that was there before`);
  return {
    owner: refOf(recorded, owner),
    expected: node && expectedOf(node),
    input: node ? taken.inputs.indexOf(node) : -1,
    after: now === null ? "none" : output >= 0 ? output : "same",
  };
}

interface Sources {
  readonly args: readonly { readonly input: number; readonly arg: number }[];
  readonly known: readonly Known[];
  readonly baked: readonly Node[];
  readonly randomInput: number;
}

/** Where the program's inputs come from, but for `gradients`. */
function sourcesOf({ taken, observed, call, argNodes }: Recorded, gradients: ReadonlySet<number>): Sources {
  const args: { input: number; arg: number }[] = [];
  const known: Known[] = [];
  const baked: Node[] = [];
  let randomInput = -1;
  const readers = new Map<Node, Tensor[]>();
  for (const [tensor, node] of observed.reads) readers.set(node, [...(readers.get(node) ?? []), tensor]);
  for (const [input, node] of taken.inputs.entries()) {
    const arg = argNodes.indexOf(node);
    const tensors = readers.get(node) ?? [];
    if (arg >= 0 && !call.tensors[arg].isState) args.push({ input, arg });
    else if (node === taken.randomKey) randomInput = input;
    else if (gradients.has(input)) continue;
    else if (tensors.length === 0) baked.push(node);
    else {
      if (tensors.length > 1 && taken.donated[input])
        throw new Unrepeatable(`${tensors.join(" and ")} share a value that is updated in place`);
      const expected = expectedOf(node);
      for (const tensor of tensors) known.push({ tensor, input, expected, node: null });
    }
  }
  return { args, known, baked, randomInput };
}

function updateOf(recorded: Recorded, tensor: Tensor, { args, known }: Sources): Update {
  const { taken } = recorded;
  const target = refOf(recorded, tensor);
  const output = taken.outputs.indexOf(Tensor.nodeOf(tensor));
  if (output < 0) throw new Unrepeatable(`${tensor} is set to a value that was there before`);
  const source =
    typeof target === "number"
      ? args.find(({ arg }) => arg === target)
      : known.find((entry) => entry.tensor === target);
  const input = source?.input ?? -1;
  const donates = input >= 0 && taken.donated[input];
  const inPlace = donates && sameForm(formOf(taken.inputs[input]), formOf(taken.outputs[output]));
  return { target, output, input, inPlace, donates };
}

/** A function's step as it was recorded: what it depended on, and what it left behind. */
export class Recording {
  private readonly program: CachedProgram;
  private readonly ids: { readonly inputs: Float64Array; readonly outputs: Float64Array };
  private readonly ends: { readonly inputs: DeviceBuffer[]; readonly outputs: DeviceBuffer[] };
  private readonly args: readonly { readonly input: number; readonly arg: number }[];
  private readonly known: readonly Known[];
  /** Values made of data while it was recorded. */
  private readonly baked: readonly Node[];
  private readonly randomInput: number;
  private readonly updates: readonly Update[];
  private readonly gradients: readonly Gradient[];
  private readonly results: readonly (Ref | { readonly output: number })[];
  /** Outputs that have a new buffer each time, with what such a buffer is. */
  private readonly fresh: readonly (Form & { readonly output: number })[];
  private readonly around: Surroundings;
  private readonly guard: ArgGuard;
  private readonly modules: readonly Fields[];
  private readonly result: unknown;

  /** Throws Unrepeatable. */
  constructor(recorded: Recorded) {
    const { taken, observed } = recorded;
    this.around = recorded.around;
    this.guard = recorded.guard;
    this.modules = [...observed.modules.values()];
    let holes = 0;
    this.result = treeMap(recorded.result, () => new Hole(holes++));
    if (taken.program === null) throw new Unrepeatable("it computes nothing");
    this.program = taken.program;
    this.ends = { inputs: taken.inputs.map(bufferOf), outputs: taken.outputs.map(bufferOf) };
    this.ids = {
      inputs: Float64Array.from(this.ends.inputs, ({ id }) => id),
      outputs: new Float64Array(taken.outputs.length),
    };
    this.gradients = [...observed.grads].map(([owner, before]) => gradientOf(recorded, owner, before));
    const sources = sourcesOf(recorded, new Set(this.gradients.map(({ input }) => input)));
    this.args = sources.args;
    this.known = sources.known;
    this.baked = sources.baked;
    this.randomInput = sources.randomInput;
    this.updates = taken.holders.map((holder) => updateOf(recorded, holder as Tensor, sources));
    this.results = recorded.results.map((tensor) => {
      const ref = refOf(recorded, tensor);
      const output = taken.outputs.indexOf(Tensor.nodeOf(tensor));
      return output < 0 || tensor.isState || typeof ref === "number" ? ref : { output };
    });
    const stays = new Set(this.updates.filter(({ inPlace }) => inPlace).map(({ output }) => output));
    this.fresh = taken.outputs.flatMap((node, output) =>
      stays.has(output) ? [] : [{ output, ...formOf(node) }],
    );
    for (const fields of this.modules) {
      const field = changedField(fields);
      const name = fields.module.constructor.name;
      if (field !== null) throw new Unrepeatable(`the forward of ${name} changes its field ${field}`);
    }
  }

  // --- whether it fits ---------------------------------------------------------------------------------------------

  /** Why this recording does not answer the call; null where it does. With `anySizes` sizes of arguments are no reason. */
  mismatch(engine: Engine, call: Call, anySizes = false): string | null {
    return (
      surroundingsDiffer(this.around, engine) ??
      (engine.hasProgram(this.program) ? null : "its program was dropped from the cache") ??
      argsDiffer(this.guard, call, anySizes) ??
      this.knownDiffer() ??
      this.gradientsDiffer(call) ??
      modulesDiffer(this.modules)
    );
  }

  private knownDiffer(): string | null {
    const { known } = this;
    for (let i = 0; i < known.length; i++) {
      const entry = known[i];
      const node = Tensor.nodeOf(entry.tensor);
      if (
        node === entry.node &&
        node.requiresGrad === entry.expected.requiresGrad &&
        bufferOf(node).state === "live"
      )
        continue;
      const what = differs(node, entry.expected);
      if (what !== null) return `${entry.tensor} ${what}`;
      const other = known.find((each) => each.input === entry.input && Tensor.nodeOf(each.tensor) !== node);
      if (other) return `${entry.tensor} and ${other.tensor} are no longer one value`;
      entry.node = node;
      this.feed(entry.input, node);
    }
    for (const node of this.baked) if (bufferOf(node).state !== "live") return "a value it had made is gone";
    return null;
  }

  private gradientsDiffer({ tensors }: Call): string | null {
    for (const { owner, expected } of this.gradients) {
      const tensor = typeof owner === "number" ? tensors[owner] : owner;
      const grad = Tensor.gradOf(tensor);
      if (grad === null && expected === null) continue;
      if (grad === null) return `${tensor} has no gradient, had one`;
      if (expected === null) return `${tensor} has a gradient, had none`;
      const what = differs(Tensor.nodeOf(grad), expected);
      if (what !== null) return `the gradient of ${tensor} ${what}`;
    }
    return null;
  }

  // --- doing it again ----------------------------------------------------------------------------------------------

  /** Does the step again, where `mismatch` was null, and gives what the function would have returned. */
  repeat(engine: Engine, call: Call): unknown {
    const { ids, ends, updates, gradients, fresh } = this;
    const resolve = (ref: Ref): Tensor => (typeof ref === "number" ? call.tensors[ref] : ref);
    for (const { input, arg } of this.args) this.feed(input, Tensor.nodeOf(call.tensors[arg]));
    for (const { input, owner } of gradients) {
      if (input < 0) continue;
      this.feed(input, Tensor.nodeOf(Tensor.gradOf(resolve(owner)) as Tensor));
    }
    const key = this.randomInput < 0 ? null : engine.newRandomKey();
    if (key) this.feed(this.randomInput, key);
    for (let i = 0; i < updates.length; i++) {
      const { inPlace, input, output } = updates[i];
      if (!inPlace) continue;
      ids.outputs[output] = ids.inputs[input];
      ends.outputs[output] = ends.inputs[input];
    }
    const made = new Array<Node>(ids.outputs.length);
    const buffers: DeviceBuffer[] = [];
    for (const { output, type, layout } of fresh) {
      const buffer = engine.createBuffer(type, layout);
      buffers.push(buffer);
      made[output] = nodeIn(buffer);
      ids.outputs[output] = buffer.id;
      ends.outputs[output] = buffer;
    }
    engine.repeat(this.program, ends, ids, buffers);

    for (let i = 0; i < updates.length; i++) this.apply(engine, updates[i], resolve(updates[i].target), made);
    for (const { owner, after } of gradients) {
      if (after === "same") continue;
      const tensor = resolve(owner);
      const before = Tensor.gradOf(tensor);
      if (after === "none" && before) engine.free(Tensor.nodeOf(before));
      tensor.grad = after === "none" ? null : new Tensor(made[after]);
    }
    if (key) engine.free(key);
    const results = this.results.map((ref) =>
      typeof ref === "object" && "output" in ref ? new Tensor(made[ref.output]) : resolve(ref as Ref),
    );
    return fill(this.result, results);
  }

  private feed(input: number, node: Node): void {
    const buffer = bufferOf(node);
    this.ends.inputs[input] = buffer;
    this.ids.inputs[input] = buffer.id;
  }

  private apply(engine: Engine, { output, inPlace, donates }: Update, tensor: Tensor, made: Node[]): void {
    const old = Tensor.nodeOf(tensor);
    if (!inPlace) {
      if (donates) engine.donateBuffer(bufferOf(old));
      else engine.freeBuffer(bufferOf(old));
      Tensor.give(tensor, made[output]);
    } else if (old.isRead) {
      // Something recorded reads the old value: it must not find the new one under the same node.
      const buffer = bufferOf(old);
      old.storage = DeviceBuffer.gone(buffer);
      Tensor.give(tensor, nodeIn(buffer));
    }
  }
}
