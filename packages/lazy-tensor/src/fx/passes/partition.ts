import type { FxNode } from "@lazuli/fx-trace";
import type { GraphModule } from "../graph_module.js";
import { besides } from "./extract.js";
import { assignable, splitModule } from "./split_module.js";

export interface PartitionOptions {
  /** Parts of fewer nodes stay in the graph around. Default 1. */
  readonly minSize?: number;
  /** Begins the parts' paths. Default `partition`. */
  readonly prefix?: string;
}

export interface Partitioned {
  /** The module with each part a module of its own, `partition_0`, ..., and the other nodes around them. */
  readonly module: GraphModule;
  /** By part, the nodes it was made of, of the graph given. */
  readonly parts: readonly (readonly FxNode[])[];
}

/**
 * Collects what `isSupported` takes into as few parts as can be called one after the other: for a backend that has some of
 * the ops. As torch.fx's CapabilityBasedPartitioner.
 */
export function partitionBySupport(
  module: GraphModule,
  isSupported: (node: FxNode) => boolean,
  { minSize = 1, prefix = "partition" }: PartitionOptions = {},
): Partitioned {
  const nodes = assignable(module.graph);
  const supported = new Set(nodes.filter(isSupported));
  const groups = new Groups();
  for (const node of nodes) if (supported.has(node)) groups.grow(node);
  const parts = groups.list().filter((part) => part.length >= minSize);
  const keys = new Map(parts.flatMap((part, key) => part.map((node) => [node, key] as const)));
  return { module: splitModule(module, (node) => keys.get(node) ?? null, { prefix }), parts };
}

/** Nodes in groups, of which none reads another in a circle. */
class Groups {
  private readonly groupOf = new Map<FxNode, ReadonlySet<FxNode>>();
  private readonly groups = new Set<ReadonlySet<FxNode>>();

  list(): FxNode[][] {
    return [...this.groups].map((group) => [...group]);
  }

  /** Adds `node`, joined with every group that it can be one part with: those it reads of first, then the latest. */
  grow(node: FxNode): void {
    let group: ReadonlySet<FxNode> = new Set([node]);
    const near = node.inputs.flatMap((input) => this.groupOf.get(homeOf(input)) ?? []);
    for (const other of new Set([...near, ...[...this.groups].reverse()])) {
      if (this.leavesAndReturns(group, other)) continue;
      this.groups.delete(other);
      group = new Set([...other, ...group]);
    }
    this.groups.add(group);
    for (const member of group) this.groupOf.set(member, group);
  }

  /** Whether there is a way out of the two groups and back into them. */
  private leavesAndReturns(a: ReadonlySet<FxNode>, b: ReadonlySet<FxNode>): boolean {
    const inside = (node: FxNode): boolean => a.has(node) || b.has(node);
    const seen = new Set<FxNode>();
    const stack: FxNode[] = [];
    const push = (node: FxNode): void => {
      if (seen.has(node)) return;
      // Another group is computed whole: whoever reads any of it waits for all it reads.
      for (const member of this.groupOf.get(node) ?? [node]) seen.add(member);
      stack.push(...(this.groupOf.get(node) ?? [node]));
    };
    for (const node of [...a, ...b]) for (const user of usersOf(node)) if (!inside(user)) push(user);
    for (let node = stack.pop(); node; node = stack.pop())
      for (const user of usersOf(node)) {
        if (inside(user)) return true;
        push(user);
      }
    return false;
  }
}

/** The node that an item or result is a part of: it stands where that stands. */
function homeOf(node: FxNode): FxNode {
  const of = besides(node);
  return of ? homeOf(of) : node;
}

/** The nodes that read a node, or an item or result of it. */
function usersOf(node: FxNode): FxNode[] {
  return [...node.users].flatMap((user) => (besides(user) === node ? usersOf(user) : [user]));
}
