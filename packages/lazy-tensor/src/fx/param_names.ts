/**
 * Names of a function's parameters, from its text; "" for one that is taken apart (`{ cos, sin }`) or cannot be read.
 * Rest parameters are left out.
 */
export function paramNames(fn: (...args: never[]) => unknown): string[] {
  const text = Function.prototype.toString.call(fn).replace(/\/\*[\s\S]*?\*\/|\/\/[^\n]*/g, "");
  const single = /^(?:async\s+)?([A-Za-z_$][\w$]*)\s*=>/.exec(text);
  if (single) return [single[1]];
  const open = text.indexOf("(");
  return open < 0 ? [] : splitParams(text, open + 1).flatMap(nameOf);
}

function nameOf(param: string): string[] {
  const text = param.trim();
  if (text === "" || text.startsWith("...")) return [];
  return [/^([A-Za-z_$][\w$]*)\s*(?:=|$)/.exec(text)?.[1] ?? ""];
}

/** The texts between commas of the list that starts at `from`, brackets and strings kept whole. */
function splitParams(text: string, from: number): string[] {
  const parts: string[] = [];
  let depth = 0;
  let start = from;
  for (let i = from; i < text.length; i++) {
    const char = text[i];
    if (char === '"' || char === "'" || char === "`") {
      i = endOfString(text, i);
    } else if ("([{".includes(char)) depth++;
    else if (")]}".includes(char)) {
      if (depth === 0) return [...parts, text.slice(start, i)];
      depth--;
    } else if (char === "," && depth === 0) {
      parts.push(text.slice(start, i));
      start = i + 1;
    }
  }
  return parts;
}

function endOfString(text: string, open: number): number {
  for (let i = open + 1; i < text.length; i++) {
    if (text[i] === "\\") i++;
    else if (text[i] === text[open]) return i;
  }
  return text.length;
}
