// Fails on every rank: early, late (at a call) or in the step; or on one alone; or says what others do not.
const [when] = process.argv.slice(2);
if (when === "early") throw new Error("no such luck");

const { configure, engine, F, Mesh, markSharding, printError, sync, tensor, zeros } = await import(
  "@lazuli/lazy-tensor"
);
configure({ device: "cpu", collectiveTimeoutMs: 20_000 });
const rank = engine().device.localDevices[0];
if (when === "alone" && rank === 1) throw new Error(`rank ${rank} fails`);
if (when === "differently") {
  for (const text of ["all say this", `rank ${rank} says that`, "all say this too"]) printError(`${text}\n`);
  await engine().device.exchange(new Uint8Array(1));
  process.exit(1);
}
if (when === "late") zeros([2, 3]).matmul(zeros([4, 5]));
if (when === "in the step") {
  const table = tensor([[1], [2]]);
  const y = F.embedding(tensor(Int32Array.of(0, 9), { shape: [2] }), table);
  await sync(y);
}
const mesh = new Mesh({ data: engine().device.deviceCount });
await sync(markSharding(zeros([8]), mesh, ["data"]).sum());
