import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** Folders of this package's and the tracer's own code, compiled or not: frames in them are not the user's. */
const own = ["lazy-tensor", "fx-trace"].map((name) =>
  fileURLToPath(new URL("..", import.meta.url)).replace(/lazy-tensor(?=[/\\](?:src|dist)[/\\]$)/, name),
);

const frameLine = /\(?((?:file:\/\/)?(?:\/|[A-Za-z]:[\\/])[^()]*?):(\d+):(\d+)\)?$/;

/** Where the user's code made the call under way: `path:line:column`, and the line where it can be read. Slow. */
export function userSource(): string | null {
  const limit = Error.stackTraceLimit;
  Error.stackTraceLimit = 100;
  const { stack = "" } = new Error();
  Error.stackTraceLimit = limit;
  for (const line of stack.split("\n").slice(1)) {
    const match = frameLine.exec(line.trim());
    if (!match) continue;
    const path = match[1].startsWith("file:") ? fileURLToPath(match[1]) : match[1];
    if (own.some((folder) => path.startsWith(folder)) || path.startsWith("node:")) continue;
    const text = lineOf(path, Number(match[2]));
    return `${path}:${match[2]}:${match[3]}${text ? ` (${text})` : ""}`;
  }
  return null;
}

function lineOf(path: string, line: number): string {
  try {
    const text = readFileSync(path, "utf8").split("\n")[line - 1]?.trim() ?? "";
    return text.length > 100 ? `${text.slice(0, 100)}…` : text;
  } catch {
    return "";
  }
}
