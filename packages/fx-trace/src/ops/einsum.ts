import { ShapeError, ValueError } from "../errors.js";
import type { Node } from "../node.js";
import { formatShape } from "../shape.js";
import * as f from "./build.js";

/** An operand with a label for each dim. */
interface Labelled {
  readonly node: Node;
  readonly labels: readonly string[];
}

interface Equation {
  readonly operands: readonly (readonly string[])[];
  readonly output: readonly string[];
}

const unique = (labels: readonly string[]): string[] => [...new Set(labels)];

/** Labels of one term; the dims under an ellipsis are named from the last: .0 is the innermost. */
function termLabels(term: string, rank: number, equation: string): string[] {
  const parts = term.split("...");
  if (parts.length > 2 || /[^a-zA-Z]/.test(parts.join(""))) {
    throw new ValueError("einsum", `cannot read the term "${term}" of "${equation}"`);
  }
  const [head, tail] = parts.map((part) => [...part]);
  if (!tail) return head;
  const hidden = Math.max(rank - head.length - tail.length, 0);
  return [...head, ...Array.from({ length: hidden }, (_, i) => `.${hidden - 1 - i}`), ...tail];
}

function parse(equation: string, operands: readonly Node[]): Equation {
  const [left, right, more] = equation.replaceAll(" ", "").split("->");
  const terms = left.split(",");
  if (more !== undefined) throw new ValueError("einsum", `"${equation}" has more than one arrow`);
  if (terms.length !== operands.length) {
    throw new ValueError("einsum", `"${equation}" names ${terms.length} operands, got ${operands.length}`);
  }
  const labels = terms.map((term, i) => {
    const list = termLabels(term, operands[i].shape.length, equation);
    if (list.length !== operands[i].shape.length) {
      throw new ShapeError(
        "einsum",
        `"${term}" has ${list.length} dims, operand ${i} is ${formatShape(operands[i].shape)}`,
      );
    }
    return list;
  });
  const all = labels.flat();
  const hidden = unique(all.filter((label) => label.startsWith("."))).sort(
    (a, b) => Number(b.slice(1)) - Number(a.slice(1)),
  );
  if (right === undefined) {
    const once = all.filter(
      (label) => !label.startsWith(".") && all.indexOf(label) === all.lastIndexOf(label),
    );
    return { operands: labels, output: [...hidden, ...once.sort()] };
  }
  const named = [...right.replace("...", "")].length;
  const output = termLabels(right, right.includes("...") ? named + hidden.length : named, equation);
  for (const label of output) {
    if (!all.includes(label))
      throw new ValueError("einsum", `output label "${label}" of "${equation}" is in no operand`);
    if (output.indexOf(label) !== output.lastIndexOf(label)) {
      throw new ValueError("einsum", `output label "${label}" of "${equation}" is named twice`);
    }
  }
  return { operands: labels, output };
}

/** The size of each label; dims of size 1 give way to others. */
function labelSizes(operands: readonly Labelled[], equation: string): Map<string, number> {
  const sizes = new Map<string, number>();
  for (const { node, labels } of operands) {
    labels.forEach((label, i) => {
      const size = node.shape[i];
      const known = sizes.get(label) ?? 1;
      if (known !== 1 && size !== 1 && known !== size) {
        throw new ShapeError("einsum", `"${label}" of "${equation}" is both ${known} and ${size}`);
      }
      sizes.set(label, known === 1 ? size : known);
    });
  }
  return sizes;
}

/** A label named twice in one operand: the diagonal of those dims. */
function takeDiagonals({ node, labels }: Labelled): Labelled {
  const again = labels.findIndex((label, i) => labels.indexOf(label) !== i);
  if (again < 0) return { node, labels };
  const first = labels.indexOf(labels[again]);
  const offDiagonal = f.ne(f.iota(first, node.shape, "int32"), f.iota(again, node.shape, "int32"));
  const kept = labels.filter((_, i) => i !== again);
  return takeDiagonals({ node: f.sum(f.where(offDiagonal, 0, node), again), labels: kept });
}

/** Drops dims of size 1 that another operand stretches. */
function dropStretched({ node, labels }: Labelled, sizes: ReadonlyMap<string, number>): Labelled {
  const stays = (i: number): boolean => node.shape[i] === sizes.get(labels[i]);
  return {
    node: f.reshape(
      node,
      node.shape.filter((_, i) => stays(i)),
    ),
    labels: labels.filter((_, i) => stays(i)),
  };
}

function sumOut({ node, labels }: Labelled, keep: (label: string) => boolean): Labelled {
  const dims = labels.flatMap((label, i) => (keep(label) ? [] : [i]));
  return dims.length === 0 ? { node, labels } : { node: f.sum(node, dims), labels: labels.filter(keep) };
}

/** Dims in the order of `labels`, those it lacks as 1. */
function alignTo({ node, labels }: Labelled, target: readonly string[]): Node {
  const present = target.filter((label) => labels.includes(label));
  const moved = f.transpose(
    node,
    present.map((label) => labels.indexOf(label)),
  );
  let at = 0;
  return f.reshape(
    moved,
    target.map((label) => (labels.includes(label) ? moved.shape[at++] : 1)),
  );
}

/** Contracts two operands; `later` are the labels still asked for afterwards. */
function contractPair(a: Labelled, b: Labelled, later: ReadonlySet<string>): Labelled {
  const x = sumOut(a, (label) => b.labels.includes(label) || later.has(label));
  const y = sumOut(b, (label) => a.labels.includes(label) || later.has(label));
  const shared = x.labels.filter((label) => y.labels.includes(label));
  const contracted = shared.filter((label) => !later.has(label));
  const batch = shared.filter((label) => later.has(label));
  if (contracted.length === 0) {
    const labels = unique([...x.labels, ...y.labels]);
    return { node: f.mul(alignTo(x, labels), alignTo(y, labels)), labels };
  }
  const places = (of: Labelled, labels: readonly string[]): number[] =>
    labels.map((label) => of.labels.indexOf(label));
  const node = f.dotGeneral(
    x.node,
    y.node,
    places(x, contracted),
    places(y, contracted),
    places(x, batch),
    places(y, batch),
  );
  const free = (of: Labelled): string[] => of.labels.filter((label) => !shared.includes(label));
  return { node, labels: [...batch, ...free(x), ...free(y)] };
}

/** As torch.einsum: letters, an ellipsis, repeated labels (diagonals); contracts from left to right. */
export function einsum(equation: string, ...operands: readonly Node[]): Node {
  if (operands.length === 0) throw new ValueError("einsum", "takes 1 operand or more, got 0");
  const { operands: labels, output } = parse(equation, operands);
  const labelled = operands.map((node, i): Labelled => ({ node, labels: labels[i] }));
  const sizes = labelSizes(labelled, equation);
  const terms = labelled.map((term) => takeDiagonals(dropStretched(term, sizes)));
  let left = terms[0];
  for (let i = 1; i < terms.length; i++) {
    const later = new Set([...output, ...terms.slice(i + 1).flatMap((term) => term.labels)]);
    left = contractPair(left, terms[i], later);
  }
  return alignTo(
    sumOut(left, (label) => output.includes(label)),
    output,
  );
}
