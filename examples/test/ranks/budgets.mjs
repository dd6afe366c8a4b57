// Every rank trains one model in the memory that it may use: given a second argument, rank 1 has less of it than rank 0.
import { configure, engine, F, Mesh, manualSeed, markSharding, nn, sync, tensor } from "@lazuli/lazy-tensor";

const LAYERS = 8;
const [arena, ofOther = arena] = process.argv.slice(2).map(Number);
const isOther = Number(process.env.OMPI_COMM_WORLD_RANK ?? process.env.PMI_RANK) === 1;
configure({ device: "cpu", remat: "auto", memoryBudgetBytes: isOther ? ofOther : arena });
let event;
engine().events.compile$.subscribe((each) => {
  event = each;
});
manualSeed(1);
const mesh = new Mesh({ data: engine().device.deviceCount });
const rank = engine().device.localDevices[0];
const layers = Array.from({ length: LAYERS }, () => new nn.Linear(32, 32));
const x = markSharding(
  tensor(
    Float32Array.from({ length: 2048 }, (_, i) => Math.sin(i)),
    { shape: [64, 32] },
  ),
  mesh,
  ["data"],
);
const loss = layers
  .reduce((h, layer) => F.silu(layer.forward(h)), x)
  .square()
  .mean();
loss.backward();
try {
  await sync(loss);
  const { remat, info } = event;
  console.log(
    `rank ${rank}: loss ${await loss.item()}, again ${remat?.recomputed ?? 0}, arena ${info.arenaBytes}`,
  );
} catch (error) {
  console.log(`rank ${rank}: ${error.constructor.name}: ${error.message}`);
  process.exitCode = 1;
}
