import { stripVTControlCharacters } from "node:util";
import { describe, expect, it } from "vitest";
import { deviceLabel } from "../src/cells.js";
import {
  type Dims,
  Mesh,
  ShardingError,
  shardingSvg,
  type VisualizeOptions,
  visualizeSharding,
} from "../src/index.js";

const mesh = new Mesh({ data: 2, tensor: 4 });
const draw = (shape: number[], dims: Dims, options: VisualizeOptions = {}): string =>
  visualizeSharding(shape, mesh, dims, { colour: false, width: 29, ...options });

describe("visualizeSharding", () => {
  it("draws rows and columns", () => {
    expect(draw([4, 8], [[0], [1]])).toBe(`[4, 8] as [data, tensor] over Mesh(data=2, tensor=4)
┌──────┬──────┬──────┬──────┐
│      │      │      │      │
│  0   │  1   │  2   │  3   │
│      │      │      │      │
├──────┼──────┼──────┼──────┤
│      │      │      │      │
│  4   │  5   │  6   │  7   │
│      │      │      │      │
└──────┴──────┴──────┴──────┘
`);
  });

  it("names every device that holds a copy", () => {
    expect(draw([2, 8], [[], [1]])).toBe(`[2, 8] as [-, tensor] over Mesh(data=2, tensor=4)
┌──────┬──────┬──────┬──────┐
│      │      │      │      │
│ 0,4  │ 1,5  │ 2,6  │ 3,7  │
│      │      │      │      │
└──────┴──────┴──────┴──────┘
`);
    expect(draw([], [])).toBe(`[] as [] over Mesh(data=2, tensor=4)
┌───────────────────────────┐
│            0-7            │
└───────────────────────────┘
`);
  });

  it("draws short parts in proportion and says who has none", () => {
    expect(draw([13], [[1, 0]], { width: 60 })).toBe(`[13] as [(tensor data)] over Mesh(data=2, tensor=4)
┌────────┬────────┬────────┬────────┬────────┬────────┬────┐
│   0    │   4    │   1    │   5    │   2    │   6    │ 3  │
└────────┴────────┴────────┴────────┴────────┴────────┴────┘
no part: 7
`);
  });

  it("draws two dims of more", () => {
    expect(draw([8, 12, 4, 64], [[0], [], [1], []])).toContain(
      "\ndims 0 and 2 are drawn; dims 1 and 3 are whole\n",
    );
    expect(draw([6, 4, 8], [[], [], [0, 1]])).toContain("\ndims 1 and 2 are drawn; dim 0 is whole\n");
    const cube = new Mesh({ a: 2, b: 2, c: 2 });
    const cut = visualizeSharding([2, 2, 2], cube, [[0], [1], [2]], { colour: false, width: 11 });
    expect(cut).toBe(`[2, 2, 2] as [a, b, c] over Mesh(a=2, b=2, c=2)
┌────┬────┐
│ 0  │ 1  │
│    │    │
├────┼────┤
│ 2  │ 3  │
│    │    │
└────┴────┘
dims 1 and 2 are drawn; the first part of dim 0 is shown
`);
  });

  it("draws empty tensors whole", () => {
    expect(draw([0, 4], [[0], []])).toBe(`[0, 4] as [data, -] over Mesh(data=2, tensor=4)
┌───────────────────────────┐
│            0-7            │
└───────────────────────────┘
`);
  });

  it("colours where asked, neighbours apart", () => {
    const line = draw([8], [[1]], { colour: true }).split("\n")[2];
    const grounds = [...line.matchAll(/48;5;(\d+)m/g)].map(([, ground]) => ground);
    expect(grounds).toHaveLength(4);
    expect(new Set(grounds).size).toBe(4);
    expect(stripVTControlCharacters(line)).toBe(draw([8], [[1]]).split("\n")[2]);
  });

  it("is plain by default where there is no terminal, and under NO_COLOR", () => {
    const { isTTY } = process.stdout;
    const { NO_COLOR } = process.env;
    const isColoured = () => visualizeSharding([8], mesh, [[1]]).includes("\x1b[");
    try {
      delete process.env.NO_COLOR;
      process.stdout.isTTY = false;
      expect(isColoured()).toBe(false);
      process.stdout.isTTY = true;
      expect(isColoured()).toBe(true);
      process.env.NO_COLOR = "1";
      expect(isColoured()).toBe(false);
    } finally {
      process.stdout.isTTY = isTTY;
      if (NO_COLOR === undefined) delete process.env.NO_COLOR;
      else process.env.NO_COLOR = NO_COLOR;
    }
  });

  it("refuses a layout of another rank", () => {
    expect(() => draw([8], [[0], []])).toThrow(ShardingError);
    expect(() => draw([8], [[0], []])).toThrow("the layout [data, -] has 2 dims, the tensor [8] has 1");
  });
});

describe("deviceLabel", () => {
  it.each([
    [[0], "0"],
    [[0, 1], "0,1"],
    [[0, 4], "0,4"],
    [[0, 1, 2, 8, 10, 11, 12], "0-2,8,10-12"],
    [[0, 8, 16, 24, 32, 40, 48], "0,…,48"],
  ])("%j is %s", (devices, label) => {
    expect(deviceLabel(devices)).toBe(label);
  });
});

describe("shardingSvg", () => {
  it("has a rectangle a part, in proportion", () => {
    const svg = shardingSvg([5, 3], mesh, [[1], [0]]);
    const parts = [...svg.matchAll(/<rect x="(\S+)" y="(\S+)" width="(\S+)" height="(\S+)"/g)].map((match) =>
      match.slice(1).map(Number),
    );
    // 300 pixels for 5 rows: 60 an element, less the gap of 2.
    expect(parts).toEqual([
      [97, 79, 118, 118],
      [217, 79, 58, 118],
      [97, 199, 118, 118],
      [217, 199, 58, 118],
      [97, 319, 118, 58],
      [217, 319, 58, 58],
    ]);
    const named = (kind: string): string[] =>
      [...svg.matchAll(new RegExp(`class="${kind}"[^>]*>([^<]*)<`, "g"))].map(([, text]) => text);
    expect(named("device")).toEqual(["0", "4", "1", "5", "2", "6"]);
    expect(named("axis")).toEqual(["dim 1: data", "dim 0: tensor"]);
    expect(named("range")).toEqual(["0:2", "2:3"]);
    expect(named("range side")).toEqual(["0:2", "2:4", "4:5"]);
    expect(named("note")).toEqual(["no part: 3,7"]);
    expect(named("title")).toEqual(["[5, 3] as [tensor, data] over Mesh(data=2, tensor=4)"]);
  });

  it("draws a scalar", () => {
    expect(shardingSvg([], mesh, []).match(/class="device">0-7</g)).toHaveLength(1);
  });
});
