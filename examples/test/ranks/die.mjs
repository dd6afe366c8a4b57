// Rank 1 dies in the middle of training, or stops taking steps (`stall`).
import { configure, engine, Mesh, markSharding, ones, sync } from "@lazuli/lazy-tensor";

configure({ device: "cpu" });
const rank = engine().device.localDevices[0];
const mesh = new Mesh({ data: engine().device.deviceCount });
let x = markSharding(ones([8]), mesh, ["data"]);
for (let step = 0; ; step++) {
  if (rank === 1 && step === 3) {
    if (process.argv[2] === "stall") await new Promise((resolve) => setTimeout(resolve, 100_000));
    process.kill(process.pid, "SIGKILL");
  }
  const total = x.sum();
  x = x.add(total.mul(1e-9));
  await sync(x, total);
}
