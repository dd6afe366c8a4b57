import { GradError } from "./errors.js";
import { atScope, type Node } from "./node.js";
import { ops } from "./ops/bound.js";
import { add } from "./ops/build.js";

interface OpenSum {
  readonly axes: readonly number[];
  sum: Node;
}

/** Ops whose vjp answers for the axes by which operand and result differ. */
const answered = new Set(["all_reduce", "all_gather", "shard_slice", "full_to_shard", "shard_to_full"]);

/**
 * Cotangents of parts. Where an op reads a value that the devices along an axis share and gives one in which they differ,
 * each device has an addend of the value's cotangent: the sum over the axis is taken once for all such readers. So values
 * and their cotangents differ along the same axes. As jax.shard_map's transposition with check_vma (a pvary at the read).
 */
export class OpenSums {
  private readonly waiting = new Map<Node, OpenSum[]>();

  constructor(private readonly targets: ReadonlySet<Node>) {}

  /** Keeps the cotangent that `user` passes to `x` where it is an addend; false where it is the cotangent itself. */
  take(user: Node, x: Node, cotangent: Node): boolean {
    if (!user.part || answered.has(user.op.name)) return false;
    if (!x.part)
      throw new GradError(
        user.op.name,
        "an op on parts reads a value of the whole mesh that needs a gradient: give it to the function as an argument",
        user.scope,
      );
    const own = x.part.varying;
    const axes = user.part.varying.filter((axis) => !own.includes(axis));
    if (axes.length === 0) return false;
    const list = this.waiting.get(x) ?? [];
    this.waiting.set(x, list);
    const same = list.find((open) => String(open.axes) === String(axes));
    if (same) same.sum = add(same.sum, cotangent);
    else list.push({ axes, sum: cotangent });
    return true;
  }

  /** Takes the sums of a value whose readers have all passed theirs on, and hands them to `give`. */
  settle(node: Node, give: (to: Node, cotangent: Node) => void): void {
    const list = this.waiting.get(node);
    if (!list) return;
    this.waiting.delete(node);
    const mesh = node.part?.mesh ?? [];
    atScope(node.scope, () => {
      for (const { axes, sum } of list) {
        const gathered = this.scattersTo(node, axes);
        if (!gathered) {
          give(node, ops.all_reduce([sum], { mesh, axes, kind: "sum" }));
          continue;
        }
        const rest = axes.filter((axis) => !gathered.includes(axis));
        const whole = rest.length > 0 ? ops.all_reduce([sum], { mesh, axes: rest, kind: "sum" }) : sum;
        const dim = node.attrs.dim as number;
        give(node.inputs[0], ops.reduce_scatter([whole], { mesh, axes: gathered, kind: "sum", dim }));
      }
    });
  }

  /** The axes that parts were gathered over, where addends of the whole are best scattered to them at once; or null. */
  private scattersTo(node: Node, axes: readonly number[]): readonly number[] | null {
    if (node.op.name !== "all_gather" || this.targets.has(node)) return null;
    const gathered = node.attrs.axes as readonly number[];
    const [x] = node.inputs;
    const isAll = gathered.every((axis) => axes.includes(axis) && x?.part?.varying.includes(axis));
    return isAll ? gathered : null;
  }
}
