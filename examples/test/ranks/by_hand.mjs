// A ring and a Megatron block by hand, on a mesh whose devices are in reverse: the gradient, and what each device has.
import {
  allReduce,
  axisSize,
  collectivePermute,
  deviceHosts,
  engine,
  gradOf,
  hybridMesh,
  isFirstProcess,
  localShards,
  Mesh,
  manualSeed,
  manualSharding,
  randn,
  sync,
} from "@lazuli/lazy-tensor";

manualSeed(5);
const n = engine().device.deviceCount;
const devices = Array.from({ length: n }, (_, point) => n - 1 - point);
const mesh = new Mesh({ data: n / 2, tensor: 2 }, { devices });

const block = manualSharding(
  (x, up, down) => {
    const members = axisSize("data");
    const ring = Array.from({ length: members }, (_, i) => [i, (i + 1) % members]);
    let [sum, passed] = [x, x];
    for (let step = 1; step < members; step++) {
      passed = collectivePermute(passed, "data", ring);
      sum = sum.add(passed);
    }
    return allReduce(sum.matmul(up).tanh().matmul(down), "tensor");
  },
  mesh,
  { inSpecs: [["data"], [null, "tensor"], ["tensor"]], outSpecs: ["data"] },
);
const [x, up, down] = [randn([8, 6]), randn([6, 4]), randn([4, 6])].map((each) => each.requiresGrad_());
const y = block(x, up, down);
const [grad] = gradOf(y.square().sum(), [up]);
await sync(y, grad);

const whole = await grad.data();
if (isFirstProcess()) console.log("gradient", [...whole].join(" "));
for (const { device, start, data } of await localShards(y))
  console.log(`${device} at ${start}: ${data.join(" ")}`);
// One host has them all.
hybridMesh({ all: n }, { hosts: 1 }, { hosts: await deviceHosts() });
