import type { ShardingExplanation } from "@lazuli/lazy-tensor";
import { expect } from "vitest";

/** Bytes that one device sends, by op. */
export function sent({ rows }: ShardingExplanation): Record<string, number> {
  const out: Record<string, number> = {};
  for (const { op, bytes } of rows) out[op] = (out[op] ?? 0) + bytes;
  return out;
}

/** Exactly these bytes by op, but for a few scalars (the loss, its count, a norm) in the sums. */
export function expectSent(
  explanation: ShardingExplanation,
  { all_reduce = 0, ...expected }: Record<string, number>,
): void {
  const { all_reduce: sums = 0, ...others } = sent(explanation);
  expect(others).toEqual(expected);
  expect(sums - all_reduce).toBeGreaterThanOrEqual(0);
  expect(sums - all_reduce).toBeLessThanOrEqual(4 * 2 * 4);
}
