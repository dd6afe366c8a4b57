// What mpi.test.ts starts under mpirun: `node mpi.child.cjs <addon> <what>`. Programs and their words come in
// LAZULI_TEST_PROGRAMS, results go out as lines of JSON.
const [, , addon, what] = process.argv;
const { NativeDevice } = require(addon);
const programs = JSON.parse(process.env.LAZULI_TEST_PROGRAMS);

const device = new NativeDevice("cpu", {
  mpi: true,
  collectiveTimeoutMs: 60000,
});
const [rank] = device.localDevices;
const say = (text) => process.stdout.write(`${text}\n`);
let next = 1;

/** Rank's x: the same numbers wherever it is made. */
function share(size, seed) {
  const x = new Float32Array(size);
  let state = seed * 7919 + 17;
  for (let i = 0; i < size; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    x[i] = state / 2 ** 31 - 1;
  }
  return x;
}

async function runAll() {
  const results = {};
  for (const [name, { words, size, output }] of Object.entries(programs)) {
    const { id } = device.compile(Uint32Array.from(words), false);
    const [x, y] = [next++, next++];
    device.upload(x, share(size, rank));
    await device.run(id, [x], [y], false);
    const bytes = new Uint8Array(output);
    await device.download(y, bytes);
    results[name] = require("node:crypto").createHash("sha256").update(bytes).digest("hex");
  }
  return results;
}

const scenes = {
  async collectives() {
    const results = await runAll();
    const text = new TextEncoder().encode("r".repeat(rank * 3));
    const all = await device.exchange(text);
    const refusals = [{ mpi: true }, { mpi: true, virtualDevices: 2 }].map((options) => {
      try {
        return new NativeDevice("cpu", options);
      } catch (error) {
        return error.message;
      }
    });
    say(JSON.stringify({ refusals, rank, results, exchanged: all.map((bytes) => bytes.length) }));
  },
  // Steps without end, until something ends them.
  async steps() {
    const { words, size } = programs.step;
    const { id } = device.compile(Uint32Array.from(words), false);
    device.upload(next, share(size, rank));
    for (let step = 0; ; step++) {
      if (step === 20) say(`rank ${rank} pid ${process.pid} is at step 20`);
      await device.run(id, [next], [next + 1], false);
      next++;
    }
  },
  // Rank 1 stops taking part, and lives on.
  async stuck() {
    if (rank !== 1) return scenes.steps();
    setInterval(() => {}, 1000);
  },
  // Rank 1 runs into an index out of range.
  async fails() {
    const { words } = programs.pick;
    const { id } = device.compile(Uint32Array.from(words), false);
    device.upload(1, new Float32Array([1, 2, 3, 4]));
    device.upload(2, new Int32Array([rank === 1 ? 9 : 0]));
    await device.run(id, [1, 2], [3], false).catch((error) => {
      say(`rank ${rank} ${error.code}: ${error.message}`);
      // A rank that ends takes the others with it: they are to say what they were told first.
      return new Promise((_, reject) => setTimeout(() => reject(error), 1000));
    });
  },
  // Rank 1 runs another program.
  async differs() {
    const { words, size } = rank === 1 ? programs.other : programs.step;
    const { id } = device.compile(Uint32Array.from(words), false);
    device.upload(1, share(size, rank));
    await device.run(id, [1], [2], false);
  },
  // Rank 1 throws between two runs.
  async throws() {
    if (rank === 1) throw new Error("rank 1 throws on purpose");
    return scenes.steps();
  },
};

scenes[what]();
