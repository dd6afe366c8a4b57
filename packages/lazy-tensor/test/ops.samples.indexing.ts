import type { OpName } from "@lazuli/fx-trace";
import {
  accumulated,
  bf16,
  bool,
  differentiated,
  distinct,
  exact,
  f16,
  f32,
  f64,
  flipped,
  forward,
  i32,
  i64,
  ints,
  type Leaf,
  type Sample,
  special,
  transposed,
  u8,
  values,
} from "./ops.samples.types.js";

/** Indices below `size`, with repeats where the shape has more elements. */
const at = (shape: readonly number[], size: number): Leaf => i32(shape, ints(0, size));
const at64 = (shape: readonly number[], size: number): Leaf => i64(shape, ints(0, size));
const everyDType = [f64, bf16, f16, i32, i64, u8] as const;

export const indexing = {
  // Gradients add rows up: exact only where no index repeats.
  index_select: [
    differentiated("embedding", [f32([31, 9]), at([2, 13], 31)], { dim: 0 }, accumulated),
    differentiated("repeats", [f32([5, 7]), at([67], 5)], { dim: 0 }, accumulated),
    differentiated("last dim", [f32([5, 7]), at([4], 7)], { dim: 1 }, accumulated),
    differentiated("middle dim, matrix of indices", [f32([2, 5, 3]), at([3, 2], 5)], { dim: 1 }, accumulated),
    differentiated("scalar index", [f32([5, 7]), at([], 5)], { dim: 0 }, accumulated),
    differentiated("vector", [f32([1031]), at([1100], 1031)], { dim: 0 }, accumulated),
    differentiated("int64 index", [f32([31, 9]), at64([13], 31)], { dim: 0 }, accumulated),
    differentiated("no indices", [f32([5, 7]), at([0], 5)], { dim: 0 }, accumulated),
    differentiated("empty rows", [f32([5, 0]), at([3], 5)], { dim: 0 }, accumulated),
    differentiated("views", [transposed(f32([7, 5]), [1, 0]), flipped(at([4], 5))], { dim: 0 }, accumulated),
    ...[...everyDType, bool].map((leaf) =>
      forward(leaf([]).dtype, [leaf([9, 4]), at([5], 9)], { dim: 0 }, exact),
    ),
  ],
  index_add: [
    differentiated("rows", [f32([31, 9]), at([13], 31), f32([13, 9])], { dim: 0 }, accumulated),
    differentiated("repeats", [f32([3, 5]), at([67], 3), f32([67, 5])], { dim: 0 }, accumulated),
    differentiated("last dim", [f32([5, 7]), at([4], 7), f32([5, 4])], { dim: 1 }, accumulated),
    differentiated(
      "matrix of indices",
      [f32([2, 5, 3]), at([3, 2], 5), f32([2, 3, 2, 3])],
      { dim: 1 },
      accumulated,
    ),
    differentiated("scalar index", [f32([5, 7]), at([], 5), f32([7])], { dim: 0 }, accumulated),
    differentiated("vector", [f32([1031]), at64([1100], 1031), f32([1100])], { dim: 0 }, accumulated),
    differentiated("no indices", [f32([5, 7]), at([0], 5), f32([0, 7])], { dim: 0 }, accumulated),
    differentiated(
      "views",
      [flipped(f32([5, 7])), at([4], 5), transposed(f32([7, 4]), [1, 0])],
      { dim: 0 },
      accumulated,
    ),
    ...everyDType.map((leaf) =>
      forward(
        leaf([]).dtype,
        [leaf([9, 4]), i32([5], values(0, 8, 3, 5, 1)), leaf([5, 4])],
        { dim: 0 },
        accumulated,
      ),
    ),
    forward("int32 repeats", [i32([3, 4]), at([9], 3), i32([9, 4])], { dim: 0 }, exact),
  ],
  gather: [
    differentiated("last dim", [f32([5, 7]), at([5, 3], 7)], { dim: 1 }, accumulated),
    differentiated("first dim", [f32([5, 7]), at([9, 7], 5)], { dim: 0 }, accumulated),
    differentiated("smaller index", [f32([5, 7, 3]), at([2, 11, 3], 7)], { dim: 1 }, accumulated),
    differentiated("one a row", [f32([67, 31]), at([67, 1], 31)], { dim: 1 }, accumulated),
    differentiated("1031", [f32([1031]), at64([1031], 1031)], { dim: 0 }, accumulated),
    differentiated("no indices", [f32([5, 7]), at([5, 0], 7)], { dim: 1 }, accumulated),
    differentiated(
      "views",
      [flipped(f32([5, 7])), transposed(at([3, 5], 7), [1, 0])],
      { dim: 1 },
      accumulated,
    ),
    ...[...everyDType, bool].map((leaf) =>
      forward(leaf([]).dtype, [leaf([4, 9]), at([4, 3], 9)], { dim: 1 }, exact),
    ),
  ],
  scatter_add: [
    differentiated("last dim", [f32([5, 7]), at([5, 3], 7), f32([5, 3])], { dim: 1 }, accumulated),
    differentiated("first dim", [f32([5, 7]), at([9, 7], 5), f32([9, 7])], { dim: 0 }, accumulated),
    differentiated(
      "smaller index",
      [f32([5, 7, 3]), at([2, 11, 3], 7), f32([2, 11, 3])],
      { dim: 1 },
      accumulated,
    ),
    differentiated("repeats", [f32([3, 2]), at([3, 67], 2), f32([3, 67])], { dim: 1 }, accumulated),
    differentiated("1031", [f32([1031]), at64([1031], 1031), f32([1031])], { dim: 0 }, accumulated),
    differentiated("no indices", [f32([5, 7]), at([5, 0], 7), f32([5, 0])], { dim: 1 }, accumulated),
    differentiated(
      "views",
      [flipped(f32([5, 7])), at([5, 3], 7), transposed(f32([3, 5]), [1, 0])],
      { dim: 1 },
      accumulated,
    ),
    ...everyDType.map((leaf) =>
      forward(
        leaf([]).dtype,
        [leaf([2, 5]), i32([2, 3], values(4, 0, 2)), leaf([2, 3])],
        { dim: 1 },
        accumulated,
      ),
    ),
    forward("int64 repeats", [i64([4, 3]), at([4, 9], 3), i64([4, 9])], { dim: 1 }, exact),
  ],
  sort: [false, true].flatMap((descending) => {
    const order = descending ? "descending" : "ascending";
    return [
      differentiated(`${order} last`, [f32([7, 33], distinct())], { dim: 1, descending }, exact),
      differentiated(`${order} first`, [f32([33, 7], distinct())], { dim: 0, descending }, exact),
      differentiated(`${order} 1031`, [f32([1031], distinct())], { dim: 0, descending }, exact),
      differentiated(`${order} ties are stable`, [f32([5, 41], ints(0, 4))], { dim: 1, descending }, exact),
      differentiated(`${order} flipped`, [flipped(f32([5, 9], distinct()))], { dim: 1, descending }, exact),
      differentiated(`${order} one`, [f32([3, 1])], { dim: 1, descending }, exact),
      differentiated(`${order} empty`, [f32([3, 0])], { dim: 1, descending }, exact),
      forward(`${order} special`, [f32([2, 28], special)], { dim: 1, descending }, exact),
      differentiated(`${order} float64`, [f64([3, 17], distinct())], { dim: 1, descending }, exact),
      forward(`${order} bfloat16`, [bf16([3, 17], special)], { dim: 1, descending }, exact),
      forward(`${order} float16`, [f16([3, 17], special)], { dim: 1, descending }, exact),
      forward(`${order} int32`, [i32([5, 13])], { dim: 1, descending }, exact),
      forward(
        `${order} int64`,
        [i64([13, 3], values(2 ** 53, 2 ** 53 - 1, -5, 7))],
        { dim: 0, descending },
        exact,
      ),
      forward(`${order} uint8`, [u8([5, 13], ints(0, 256))], { dim: 1, descending }, exact),
      forward(`${order} bool`, [bool([5, 13])], { dim: 1, descending }, exact),
    ];
  }),
  topk: [true, false].flatMap((largest) => {
    const which = largest ? "largest" : "smallest";
    return [
      differentiated(`${which} last`, [f32([7, 33], distinct())], { k: 5, dim: 1, largest }, exact),
      differentiated(`${which} first`, [f32([33, 7], distinct())], { k: 4, dim: 0, largest }, exact),
      differentiated(`${which} all`, [f32([3, 9], distinct())], { k: 9, dim: 1, largest }, exact),
      differentiated(`${which} one of 1031`, [f32([1031], distinct())], { k: 1, dim: 0, largest }, exact),
      differentiated(`${which} none`, [f32([3, 9])], { k: 0, dim: 1, largest }, exact),
      differentiated(
        `${which} flipped`,
        [flipped(f32([5, 9], distinct()))],
        { k: 3, dim: 1, largest },
        exact,
      ),
      forward(`${which} ties`, [f32([5, 41], ints(0, 4))], { k: 17, dim: 1, largest }, exact),
      forward(`${which} special`, [f32([2, 28], special)], { k: 9, dim: 1, largest }, exact),
      differentiated(`${which} float64`, [f64([3, 17], distinct())], { k: 3, dim: 1, largest }, exact),
      forward(`${which} bfloat16`, [bf16([3, 17], distinct())], { k: 3, dim: 1, largest }, exact),
      forward(`${which} float16`, [f16([3, 17], distinct())], { k: 3, dim: 1, largest }, exact),
      forward(`${which} int32`, [i32([5, 13])], { k: 4, dim: 1, largest }, exact),
      forward(`${which} int64`, [i64([13, 3])], { k: 4, dim: 0, largest }, exact),
      forward(`${which} uint8`, [u8([5, 13], ints(0, 256))], { k: 4, dim: 1, largest }, exact),
    ];
  }),
} as const satisfies Partial<Record<OpName, readonly Sample[]>>;
