import { GraphError } from "@lazuli/fx-trace";
import type { GraphModule } from "../graph_module.js";

/** Changes a module's graph, or gives another module. */
export type FxPass = (module: GraphModule) => GraphModule | undefined | Promise<GraphModule | undefined>;

export interface PassSpec {
  /** Names it in constraints, dumps and timings. */
  readonly name: string;
  readonly run: FxPass;
  /** Passes that come later, where they are there. */
  readonly before?: readonly string[];
  /** Passes that come earlier, where they are there. */
  readonly after?: readonly string[];
  /** Passes that must be there, and come earlier. */
  readonly requires?: readonly string[];
}

export interface FxPassReport {
  readonly name: string;
  readonly wallMs: number;
  /** Number of nodes. */
  readonly before: number;
  readonly after: number;
  /** Whether the graph reads otherwise than before. */
  readonly changed: boolean;
  /** The graph after the pass, as text. */
  readonly text: string;
}

export interface RunOptions {
  /** Lints the graph, and what it reads of the module, after each pass. Default true. */
  readonly verify?: boolean;
  /** Called after each pass: dumps and timings hang here. */
  readonly onPass?: (report: FxPassReport) => void;
}

/**
 * Passes in an order that their constraints allow; where these leave a choice, in that they were added in. As torch.fx's
 * PassManager.
 */
export class PassManager {
  private readonly specs = new Map<string, PassSpec>();

  constructor(passes: readonly PassSpec[] = []) {
    for (const pass of passes) this.add(pass);
  }

  /** Throws GraphError for a name that is taken. */
  add(pass: PassSpec): this {
    if (this.specs.has(pass.name)) throw new GraphError("PassManager", `there are two passes ${pass.name}`);
    this.specs.set(pass.name, pass);
    return this;
  }

  /** The passes in order. Throws GraphError for one that is required and not there, and for constraints in a circle. */
  order(): PassSpec[] {
    const earlier = new Map<string, Set<string>>([...this.specs.keys()].map((name) => [name, new Set()]));
    for (const { name, before = [], after = [], requires = [] } of this.specs.values()) {
      for (const other of requires)
        if (!this.specs.has(other))
          throw new GraphError("PassManager", `${name} requires ${other}, which is not there`);
      for (const other of [...after, ...requires]) if (this.specs.has(other)) earlier.get(name)?.add(other);
      for (const other of before) earlier.get(other)?.add(name);
    }
    const left = new Set(this.specs.keys());
    const done: PassSpec[] = [];
    while (left.size > 0) {
      const next = [...left].find((name) => ![...(earlier.get(name) ?? [])].some((other) => left.has(other)));
      if (next === undefined)
        throw new GraphError("PassManager", `passes wait for each other: ${circle(left, earlier)}`);
      left.delete(next);
      done.push(this.specs.get(next) as PassSpec);
    }
    return done;
  }

  /** Runs every pass; gives the module the last one gave. An error says which pass it came from. */
  async run(module: GraphModule, { verify = true, onPass }: RunOptions = {}): Promise<GraphModule> {
    let current = module;
    for (const { name, run } of this.order()) {
      const text = current.graph.toString();
      const size = current.graph.size;
      const started = performance.now();
      try {
        current = (await run(current)) ?? current;
        if (verify) current.lint();
      } catch (error) {
        if (error instanceof Error) error.message = `${error.message}\n  in the pass ${name}`;
        throw error;
      }
      const wallMs = performance.now() - started;
      const made = current.graph.toString();
      onPass?.({ name, wallMs, before: size, after: current.graph.size, changed: made !== text, text: made });
    }
    return current;
  }
}

function circle(left: ReadonlySet<string>, earlier: ReadonlyMap<string, ReadonlySet<string>>): string {
  const path: string[] = [];
  let [name] = left;
  while (!path.includes(name)) {
    path.push(name);
    name = [...(earlier.get(name) ?? [])].find((other) => left.has(other)) as string;
  }
  return [...path.slice(path.indexOf(name)), name].reverse().join(" before ");
}
