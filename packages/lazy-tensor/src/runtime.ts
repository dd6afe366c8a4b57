import "reflect-metadata";
import { type DeviceName, openDevice } from "@lazuli/cuda-backend";
import { overlapDefaults } from "@lazuli/sharding";
import { type DependencyContainer, instanceCachingFactory, container as root } from "tsyringe";
import { attachDebug, debugLevel } from "./debug.js";
import { Engine } from "./engine.js";
import { Events } from "./events.js";
import { catchErrors, isRank } from "./job.js";
import { checkRemat, type EngineOptions, TOKENS } from "./options.js";

export type { DeviceName };

export interface RuntimeOptions extends Partial<EngineOptions> {
  /** Defaults to LAZULI_DEVICE, else `cpu`. */
  readonly device?: DeviceName;
  /** Most bytes the device may hold; a program that would need more is refused before it runs. 0: no limit. */
  readonly memoryLimitBytes?: number;
  /** Devices of this process, each a thread with its memory: a mesh on one machine. Defaults to LAZULI_VIRTUAL_DEVICES, else 1. */
  readonly virtualDevices?: number;
  /** One device a process of an MPI job. Defaults to whether the process was started as one of several (mpirun, srun). */
  readonly mpi?: boolean;
  /** After which a device that does not come to a collective fails the run, in milliseconds. Default 300000. */
  readonly collectiveTimeoutMs?: number;
  /**
   * Whether every run gives the same bits, as after torch.use_deterministic_algorithms(true). Default true; `false` lets `cuda`
   * compute attention's gradient in one pass, which adds up dq in whatever order blocks come.
   */
  readonly deterministic?: boolean;
}

// Also of a program that a launcher other than `lazuli run` started.
catchErrors();

/** A container with an engine of its own. Register another device, events or options on it before resolving Engine. */
export function createContainer(options: RuntimeOptions = {}): DependencyContainer {
  const {
    device,
    memoryLimitBytes = 0,
    virtualDevices,
    mpi,
    collectiveTimeoutMs,
    deterministic,
    ...engine
  } = options;
  const container = root.createChildContainer();
  const events = new Events();
  container.registerInstance(TOKENS.events, events);
  const engineOptions: EngineOptions = {
    cacheCapacity: 64,
    pendingLimit: 200_000,
    seed: 0,
    verifyPasses: false,
    wantText: debugLevel() >= 4,
    supports: (op) => op.lower !== "composite",
    contextParallel: "ulysses",
    overlap: process.env.LAZULI_OVERLAP !== "0",
    bucketBytes: overlapDefaults.bucketBytes,
    prefetch: overlapDefaults.prefetch,
    remat: "none",
    memoryBudgetBytes: 0,
    ...engine,
  };
  checkRemat(engineOptions);
  container.registerInstance<EngineOptions>(TOKENS.options, engineOptions);
  container.register(TOKENS.device, {
    useFactory: instanceCachingFactory(() => {
      const name = device ?? (process.env.LAZULI_DEVICE as DeviceName | undefined) ?? "cpu";
      const isMpi = mpi ?? (name !== "null" && isRank());
      return openDevice(name, {
        memoryLimitBytes,
        collectiveTimeoutMs,
        deterministic,
        mpi: isMpi,
        virtualDevices: isMpi ? 1 : (virtualDevices ?? Number(process.env.LAZULI_VIRTUAL_DEVICES || 1)),
      });
    }),
  });
  attachDebug(events);
  return container;
}

let active: Engine | null = null;

/** The engine that records now; made with the defaults when first needed. */
export function engine(): Engine {
  return active ?? configure({});
}

/** Makes `next` the engine that records. Tensors belong to the engine they were made in. */
export function useEngine(next: Engine): void {
  active = next;
  next.activate();
}

/** Opens a device and makes it the one that new tensors live on. */
export function configure(options: RuntimeOptions): Engine {
  const container = createContainer(options);
  // Opened by itself first: an error from inside a constructor's dependency would come wrapped in the container's words.
  container.resolve(TOKENS.device);
  const made = container.resolve(Engine);
  useEngine(made);
  return made;
}

/** Whether this is the first process of the job, or the only one: the one to log and to write files. */
export const isFirstProcess = (): boolean => engine().device.localDevices[0] === 0;
