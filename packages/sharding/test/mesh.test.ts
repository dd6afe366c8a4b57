import { describe, expect, it } from "vitest";
import { axesIn, hybridMesh, Mesh, mesh1d, refineMesh, splitSizes } from "../src/index.js";

describe("Mesh", () => {
  it("numbers devices row by row, or as it is told", () => {
    expect(new Mesh({ a: 2, b: 3 }).coordinates(4)).toEqual([1, 1]);
    const mesh = new Mesh({ a: 2, b: 2 }, { devices: [2, 0, 3, 1] });
    expect([0, 1, 2, 3].map((device) => mesh.coordinates(device))).toEqual([
      [0, 1],
      [1, 1],
      [0, 0],
      [1, 0],
    ]);
    expect(mesh.indexAlong(1, [1, 0])).toBe(3);
    expect(mesh.attr).toEqual([2, 2, 0, 2, 0, 3, 1]);
    expect(new Mesh({ a: 2, b: 2 }, { devices: [0, 1, 2, 3] }).attr).toEqual([2, 2]);
    expect(String(mesh)).toBe("Mesh(a=2, b=2; devices 2 0 3 1)");
    expect(mesh.equals(new Mesh({ a: 2, b: 2 }))).toBe(false);
    expect(mesh.equals(new Mesh({ a: 2, b: 2 }, { devices: [2, 0, 3, 1] }))).toBe(true);
  });

  it.each([
    [[0, 1, 2], "[Mesh] Mesh(a=2, b=2) has 4 points, and there are 3 devices"],
    [[0, 1, 2, 4], "[Mesh] devices are numbered 0 to 3, there is no 4"],
    [[0, 1.5, 2, 3], "there is no 1.5"],
    [[0, 1, 1, 3], "[Mesh] device 1 is at points 1 and 2"],
  ])("refuses the devices %j", (devices, message) => {
    expect(() => new Mesh({ a: 2, b: 2 }, { devices })).toThrow(message);
  });

  it("has submeshes, by name or under other names", () => {
    const mesh = new Mesh({ data: 2, fsdp: 3, tensor: 4 });
    const two = mesh.submesh("tensor", "data");
    expect(two.shape).toEqual({ tensor: 4, data: 2 });
    expect(two.rootAxes).toEqual([[2], [0]]);
    expect(two.coordinates(23)).toEqual([3, 1]);
    expect(String(two)).toBe("submesh(tensor=4, data=2) of Mesh(data=2, fsdp=3, tensor=4)");
    const joined = mesh.submesh({ batch: ["data", "fsdp"], model: "tensor" });
    expect(joined.shape).toEqual({ batch: 6, model: 4 });
    expect(joined.submesh("batch").rootAxes).toEqual([[0, 1]]);
    expect(joined.submesh("batch").coordinates(23)).toEqual([5]);
    expect(axesIn(joined.submesh("model"), mesh)).toEqual([[2]]);
    expect(() => mesh.submesh("model")).toThrow(
      '[submesh] no axis "model" in Mesh(data=2, fsdp=3, tensor=4)',
    );
    expect(() => mesh.submesh({ a: "data", b: ["fsdp", "data"] })).toThrow('axis "data" of Mesh(data=2');
  });
});

describe("refineMesh", () => {
  const grid = new Mesh({ data: 2, tensor: 4 });

  it.each([
    [grid, mesh1d("all", 8), grid.shape, [[0, 1]]],
    [mesh1d("all", 8), grid, grid.shape, [[0], [1]]],
    [grid, new Mesh({ a: 4, b: 2 }), { data: 2, tensor_a: 2, b: 2 }, [[0, 1], [2]]],
    [grid, new Mesh({ tensor: 4, data: 2 }), { data: 2, tensor_tensor: 2, data2: 2 }, [[0, 1], [2]]],
    [new Mesh({ one: 1, all: 8 }), mesh1d("x", 8), { one: 1, all: 8 }, [[1]]],
    [new Mesh({ a: 6, b: 2 }), new Mesh({ c: 2, d: 6 }), { c: 2, a_d: 3, b: 2 }, [[0], [1, 2]]],
  ])("%s by %s", (base, mesh, shape, axes) => {
    const finer = refineMesh(base, mesh);
    expect(finer.shape).toEqual(shape);
    expect(axesIn(mesh, finer)).toEqual(axes);
    expect(finer === base).toBe(finer.axisNames.length === base.axisNames.length);
    // Every device is where both meshes have it.
    for (const each of [base, mesh]) {
      const lists = axesIn(each, finer);
      for (const device of finer.devices)
        expect(lists.map((list) => finer.indexAlong(device, list))).toEqual(each.coordinates(device));
    }
    if (base.sizes.every((size) => size > 1))
      expect(axesIn(base, finer)).toEqual(splitSizes(base.sizes, finer.sizes));
  });

  it("finds axes in another order of devices", () => {
    const base = new Mesh({ data: 2, tensor: 4 }, { devices: [7, 3, 1, 5, 6, 2, 0, 4] });
    // The same places, tensor the major.
    const turned = new Mesh({ t: 4, d: 2 }, { devices: [7, 6, 3, 2, 1, 0, 5, 4] });
    expect(refineMesh(base, turned)).toBe(base);
    expect(axesIn(turned, base)).toEqual([[1], [0]]);
    expect(() => refineMesh(base, new Mesh({ t: 4, d: 2 }))).toThrow(
      "values lie over Mesh(data=2, tensor=4; devices 7 3 1 5 6 2 0 4), and no finer mesh has the axes of Mesh(t=4, d=2) too",
    );
  });

  it("refuses what cuts another grid", () => {
    expect(() => refineMesh(new Mesh({ a: 2, b: 3 }), new Mesh({ c: 3, d: 2 }))).toThrow(
      /Mesh\(a=2, b=3\).*Mesh\(c=3, d=2\)/,
    );
    const odd = new Mesh({ a: 4 }, { devices: [0, 1, 3, 2] });
    expect(() => refineMesh(mesh1d("b", 4), odd)).toThrow(/no finer mesh/);
  });
});

describe("hybridMesh", () => {
  it("puts the outer axes across hosts", () => {
    const mesh = hybridMesh({ fsdp: 2, tensor: 2 }, { data: 2 });
    expect(mesh.shape).toEqual({ data: 2, fsdp: 2, tensor: 2 });
    expect(mesh.isInOrder).toBe(true);
    const turns = hybridMesh({ tensor: 2 }, { data: 2 }, { hosts: ["a", "b", "a", "b"] });
    expect(turns.devices).toEqual([0, 2, 1, 3]);
    // An axis of both: hosts are its major part.
    const both = hybridMesh({ tensor: 2, data: 2 }, { data: 2 });
    expect(both.shape).toEqual({ data: 4, tensor: 2 });
    const hostOf = (device: number): number => Math.floor(device / 4);
    for (const device of both.devices)
      expect(Math.floor(both.coordinates(device)[0] / 2)).toBe(hostOf(device));
  });

  it("refuses hosts that do not fit", () => {
    expect(() => hybridMesh({ tensor: 4 }, { data: 2 }, { hosts: ["a", "a", "a", "a"] })).toThrow(
      "[hybridMesh] the outer Mesh(data=2) is over 2 hosts, and there is 1: a",
    );
    expect(() => hybridMesh({ tensor: 2 }, { data: 2 }, { hosts: ["a", "a", "a", "b"] })).toThrow(
      "[hybridMesh] the inner Mesh(tensor=2) has 2 devices, and host a has 3",
    );
  });
});
