// Rank 1 records another operation than the others.
import { configure, engine, Mesh, markSharding, ones, sync } from "@lazuli/lazy-tensor";

configure({ device: "cpu" });
const rank = engine().device.localDevices[0];
const mesh = new Mesh({ data: engine().device.deviceCount });
const x = markSharding(ones([8]), mesh, ["data"]);
const y = rank === 1 ? x.exp().sum() : x.tanh().sum();
try {
  await sync(y);
  console.log(`rank ${rank}: no error`);
} catch (error) {
  console.log(`rank ${rank}: ${error.constructor.name}: ${error.message}`);
  process.exitCode = 1;
}
