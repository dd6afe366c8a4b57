import type { Node } from "../node.js";
import type { Hlo, HloWriter } from "./hlo_writer.js";
import { i64s, ints } from "./hlo_writer.js";

// Indexing and ordering as StableHLO has them. An index out of range is clamped by its gather, and left out by its
// scatter, where a run of Lazuli's fails.

const range = (from: number, to: number): number[] =>
  Array.from({ length: Math.max(to - from, 0) }, (_, i) => from + i);

/** Dims of the result that are x's own, where the index's dims stand in place of `dim`. */
const windowDims = (rank: number, indexRank: number, dim: number): number[] => [
  ...range(0, dim),
  ...range(dim + indexRank, rank - 1 + indexRank),
];

export const indexSelect = (h: HloWriter, node: Node, [x, index]: readonly Hlo[]): Hlo => {
  const dim = node.attrs.dim as number;
  const numbers = [
    `offset_dims = ${ints(windowDims(x.shape.length, index.shape.length, dim))}`,
    `collapsed_slice_dims = [${dim}]`,
    `start_index_map = [${dim}]`,
    `index_vector_dim = ${index.shape.length}`,
  ].join(", ");
  const attrs = {
    dimension_numbers: `#stablehlo.gather<${numbers}>`,
    indices_are_sorted: "false",
    slice_sizes: i64s(x.shape.map((size, i) => (i === dim ? 1 : size))),
  };
  return h.one("stablehlo.gather", [x, index], attrs, [node.type]);
};

function scatter(h: HloWriter, base: Hlo, index: Hlo, updates: Hlo, numbers: readonly string[]): Hlo {
  const scalar = { shape: [], dtype: base.dtype };
  const attrs = {
    indices_are_sorted: "false",
    scatter_dimension_numbers: `#stablehlo.scatter<${numbers.join(", ")}>`,
    unique_indices: "false",
  };
  return h.one("stablehlo.scatter", [base, index, updates], attrs, [base], {
    args: [scalar, scalar],
    body: (a, b) => [h.same("stablehlo.add", [a, b])],
  });
}

export const indexAdd = (h: HloWriter, node: Node, [base, index, updates]: readonly Hlo[]): Hlo => {
  const dim = node.attrs.dim as number;
  return scatter(h, base, index, updates, [
    `update_window_dims = ${ints(windowDims(base.shape.length, index.shape.length, dim))}`,
    `inserted_window_dims = [${dim}]`,
    `scatter_dims_to_operand_dims = [${dim}]`,
    `index_vector_dim = ${index.shape.length}`,
  ]);
};

/** index [...] along `dim` → each element's whole place in x, [..., rank]. */
function places(h: HloWriter, index: Hlo, dim: number): Hlo {
  const shape = [...index.shape, 1];
  const parts = index.shape.map((_, i) =>
    i === dim ? h.reshape(index, shape) : h.iota(i, { shape, dtype: index.dtype }),
  );
  const type = { shape: [...index.shape, parts.length], dtype: index.dtype };
  return h.one("stablehlo.concatenate", parts, { dimension: `${index.shape.length} : i64` }, [type]);
}

export const gather = (h: HloWriter, node: Node, [x, index]: readonly Hlo[]): Hlo => {
  const rank = x.shape.length;
  const all = ints(range(0, rank));
  const numbers = `collapsed_slice_dims = ${all}, start_index_map = ${all}, index_vector_dim = ${rank}`;
  const attrs = {
    dimension_numbers: `#stablehlo.gather<${numbers}>`,
    indices_are_sorted: "false",
    slice_sizes: i64s(x.shape.map(() => 1)),
  };
  return h.one("stablehlo.gather", [x, places(h, index, node.attrs.dim as number)], attrs, [node.type]);
};

export const scatterAdd = (h: HloWriter, node: Node, [base, index, updates]: readonly Hlo[]): Hlo => {
  const rank = base.shape.length;
  const all = ints(range(0, rank));
  return scatter(h, base, places(h, index, node.attrs.dim as number), updates, [
    `inserted_window_dims = ${all}`,
    `scatter_dims_to_operand_dims = ${all}`,
    `index_vector_dim = ${rank}`,
  ]);
};

/** Values and places along `dim`; stable, NaN largest. */
function sorted(h: HloWriter, x: Hlo, dim: number, descending: boolean): readonly Hlo[] {
  const at = h.iota(dim, { shape: x.shape, dtype: "int32" });
  const value = { shape: [], dtype: x.dtype };
  const place = { shape: [], dtype: "int32" } as const;
  const attrs = { dimension: `${dim} : i64`, is_stable: "true" };
  return h.generic("stablehlo.sort", [x, at], attrs, [x, at], {
    args: [value, value, place, place],
    body: (a, b) => {
      const [low, high] = descending ? [b, a] : [a, b];
      const less = h.compare("LT", low, high);
      const isNan = (of: Hlo): Hlo => h.compare("NE", of, of);
      const nanAbove = h.same("stablehlo.and", [isNan(high), h.same("stablehlo.not", [isNan(low)])]);
      return [h.same("stablehlo.or", [less, nanAbove])];
    },
  });
}

export const sort = (h: HloWriter, node: Node, [x]: readonly Hlo[]): readonly Hlo[] =>
  sorted(h, x, node.attrs.dim as number, node.attrs.descending as boolean);

export const topk = (h: HloWriter, node: Node, [x]: readonly Hlo[]): readonly Hlo[] => {
  const { dim, largest } = node.attrs as { dim: number; largest: boolean };
  const zeros = x.shape.map(() => 0);
  const ones = x.shape.map(() => 1);
  return sorted(h, x, dim, largest).map((of) => h.slice(of, zeros, node.shape, ones, node.shape));
};
