import type { ops as Table } from "./table.js";

/**
 * The op table, for code that ops themselves use and that therefore cannot import it. The table binds itself here when
 * it loads; nothing may be called before.
 */
export let ops: typeof Table;

export function bindOps(table: typeof Table): void {
  ops = table;
}
