// On GPUs: rank 1 looks up a row that is not there (`index`), or stops taking steps (`stall`); rank 0 goes on. Each says what
// its run ended with.
import { configure, engine, F, Mesh, markSharding, ones, sync, tensor } from "@lazuli/lazy-tensor";

configure({ device: "cuda" });
const rank = engine().device.localDevices[0];
const mesh = new Mesh({ data: engine().device.deviceCount });
const table = ones([4, 8]);
for (let step = 0; ; step++) {
  const isAtFault = rank === 1 && step === 2;
  if (isAtFault && process.argv[2] === "stall") await new Promise((resolve) => setTimeout(resolve, 100_000));
  // Each rank has its own half of the indices.
  const ids = tensor(Int32Array.of(0, 1, isAtFault ? 9 : 2, 3), { shape: [4] });
  const rows = F.embedding(markSharding(ids, mesh, ["data"]), table);
  const total = rows.sum();
  try {
    await sync(total);
    if (step < 2) console.log(`rank ${rank} step ${step}: ${await total.item()}`);
  } catch (error) {
    console.log(`rank ${rank}: ${error.constructor.name}: ${error.message}`);
    process.exit(1);
  }
}
