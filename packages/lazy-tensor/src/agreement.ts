import { deflateRawSync, inflateRawSync } from "node:zlib";
import { CollectiveError, type NativeDevice } from "@lazuli/cuda-backend";
import { hashWords } from "@lazuli/fx-trace";
import { type CachedProgram, firstDifference, type ProgramSummary } from "./program_cache.js";

interface Statement {
  /** Of the recorded program and where its ends lie on the mesh. */
  readonly key: number;
  readonly summary: ProgramSummary;
  /** Under a memory budget: nodes that are computed again. */
  readonly recomputed: number;
}

/**
 * Ranks that record different programs would wait for each other in different collectives. So before its first run each
 * tells what it recorded, and a difference is an error on all of them that names the first op and rank.
 */
export async function checkAgreement(device: NativeDevice, program: CachedProgram): Promise<void> {
  const own: Statement = {
    key: hashWords(program.words),
    summary: program.summary,
    recomputed: program.recomputed,
  };
  const all = await device.exchange(deflateRawSync(JSON.stringify(own), { level: 1 }), true);
  const statements = all.map((bytes) => JSON.parse(inflateRawSync(bytes).toString()) as Statement);
  const [first] = statements;
  for (const [rank, statement] of statements.entries()) {
    const difference = firstDifference(first.summary, statement.summary, "rank 0");
    if (difference === null && statement.key === first.key) {
      if (statement.recomputed === first.recomputed) continue;
      throw new CollectiveError(
        "remat",
        `rank ${rank} computes ${statement.recomputed} values again and rank 0 ${first.recomputed}: every rank must have the ` +
          "same memoryBudgetBytes, and as many threads, whose memory counts",
      );
    }
    const what = difference ?? "the same ops on other layouts or attributes";
    throw new CollectiveError(
      "sync",
      `rank ${rank} is to run another program than rank 0: ${what}. Every rank must record the same operations`,
    );
  }
}
