import type { Node } from "@lazuli/fx-trace";
import { type Dims, replicated } from "@lazuli/sharding";
import type { DeviceBuffer } from "./buffer.js";
import type { GradHolder, Holder } from "./holder.js";
import { stateLayout } from "./mesh_program.js";

/** What a step computes and keeps. */
export interface TakenRoots {
  /** In the order of recording: a step that assigns the same values in another order is the same program. */
  readonly nodes: readonly Node[];
  /** State and other tensors that were given a new value. */
  readonly holders: readonly Holder[];
  /** Buffers that new values take the place of. */
  readonly replaced: ReadonlySet<DeviceBuffer>;
  /** By root how it is to lie over the mesh, where that is known. */
  readonly layouts: ReadonlyMap<Node, Dims>;
}

/** The values that the pending step keeps, by rule (docs/architecture.md, "Step roots"). */
export class StepRoots {
  /** Nodes given to tensors since the last step: those nothing consumed are kept. */
  readonly visible = new Set<Node>();
  readonly assigned = new Set<Holder>();
  readonly gradHolders = new Set<GradHolder>();
  readonly kept = new Set<Node>();
  /** First values of parameters and other state: computed by a program of their own, so that step 1 equals step 2. */
  readonly initials = new Map<Holder, Node>();
  /** Nodes whose memory is given back with the step. */
  readonly retired: Node[] = [];

  /** True where nothing was asked for; what is only shown does not count. */
  get isEmpty(): boolean {
    const { assigned, gradHolders, kept, retired } = this;
    return assigned.size + gradHolders.size + kept.size + retired.length === 0;
  }

  /** Of what was shown, only `results` are kept. */
  keepOnly(results: readonly Node[]): void {
    this.visible.clear();
    this.kept.clear();
    for (const node of results) this.kept.add(node);
  }

  /** The first values that are not computed yet, and how they are to lie over the mesh. */
  waitingInitials(): { readonly nodes: readonly Node[]; readonly layouts: ReadonlyMap<Node, Dims> } {
    const layouts = new Map<Node, Dims>();
    for (const [holder, node] of this.initials)
      if (node.storage === null) layouts.set(node, stateLayout(holder, node));
    return { nodes: [...layouts.keys()], layouts };
  }

  /** What the step keeps; forgets it, but for first values and what is retired. */
  take(onMesh: boolean): TakenRoots {
    const roots = new Set<Node>();
    const layouts = new Map<Node, Dims>();
    const replaced = new Set<DeviceBuffer>();
    const holders = [...this.assigned];
    for (const holder of holders) {
      roots.add(holder.node);
      if (onMesh && (holder.layout || holder.isState))
        layouts.set(holder.node, stateLayout(holder, holder.node));
      const old = holder.committed;
      if (old && old !== holder.node.storage && old.state === "live") replaced.add(old);
    }
    for (const { grad, presentLayout, gradLayout } of this.gradHolders) {
      if (!grad) continue;
      roots.add(grad.node);
      if (onMesh) layouts.set(grad.node, gradLayout ?? presentLayout ?? replicated(grad.node.shape.length));
    }
    for (const node of this.kept) roots.add(node);
    for (const node of this.visible) if (node.useCount === 0) roots.add(node);
    for (const set of [this.assigned, this.gradHolders, this.kept, this.visible]) set.clear();
    const nodes = [...roots].sort((a, b) => a.id - b.id);
    return { nodes, holders, replaced, layouts };
  }
}
