// The bundle's policy, run by ONNX Runtime Web in one thread, and the check that it acts as the trainer's.

async function startOnnxRuntime() {
  const [api, loader] = await Promise.all(["runtime-api", "runtime-loader"].map(moduleAddress));
  const ort = await import(api);
  // More threads need headers that only a web server can send.
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.proxy = false;
  ort.env.wasm.wasmPaths = { mjs: loader };
  ort.env.wasm.wasmBinary = await inflated(block("runtime-binary"));
  ort.env.logLevel = "error";
  return ort;
}

// A module of a page opened from a disk cannot be imported from a file, but from memory it can.
async function moduleAddress(id) {
  return URL.createObjectURL(new Blob([await inflated(block(id))], { type: "text/javascript" }));
}

class Policy {
  constructor(ort, session, bundle) {
    this.ort = ort;
    this.session = session;
    this.bundle = bundle;
    this.last = Promise.resolve();
  }

  static async load(bundle) {
    const ort = await startOnnxRuntime();
    const options = { executionProviders: ["wasm"], graphOptimizationLevel: "all" };
    const session = await ort.InferenceSession.create(bytesOf(block("graph")), options);
    return new Policy(ort, session, bundle);
  }

  // observation [obs], noise [N·noise_size], omegas [W] → {action [W·act], q [W·N], milliseconds}; without noise and omegas for
  // a deterministic policy: {action [act], q [1], milliseconds}. One run at a time, in the order of the calls.
  run(observation, noise, omegas) {
    const result = this.last.then(() => this.runNow(observation, noise, omegas));
    this.last = result.catch(() => {});
    return result;
  }

  async runNow(observation, noise, omegas) {
    const { Tensor } = this.ort;
    const started = performance.now();
    const inputs = { observation: new Tensor("float32", observation, [1, observation.length]) };
    if (noise) {
      const size = this.bundle.guidance.noise_size;
      inputs.noise = new Tensor("float32", noise, [noise.length / size, size]);
      inputs.omega = new Tensor("float32", omegas, [omegas.length]);
    }
    const outputs = await this.session.run(inputs);
    const [action, q] = [outputs.action.data, outputs.q.data];
    const milliseconds = performance.now() - started;
    if (!action.every(Number.isFinite) || !q.every(Number.isFinite))
      throw new Error("the policy gave NaN or infinity, expected finite numbers");
    return { action, q, milliseconds };
  }

  // The largest differences from the trainer's actions, as a share of their range, and from its q, as a share of max(1, |q|).
  // As in dipole_runtime.parity: where two candidates are nearly equal, rounding decides, and either is right.
  async differences() {
    const { vectors, action, observation } = this.bundle;
    const observations = floatsOf(vectors.observations);
    const [expectedQ, size] = [floatsOf(vectors.q), action.size];
    const width = action.high.map((high, index) => high - action.low[index]);
    const worst = { action: 0, q: 0 };
    const compare = (found, expected, ofQ, expectedOfQ) => {
      found.forEach((value, index) => {
        worst.action = largest(worst.action, Math.abs(value - expected[index]) / width[index]);
      });
      ofQ.forEach((value, index) => {
        const scale = Math.max(1, Math.abs(expectedOfQ[index]));
        worst.q = largest(worst.q, Math.abs(value - expectedOfQ[index]) / scale);
      });
    };
    const pair = this.bundle.guidance !== null;
    const omegas = pair ? floatsOf(vectors.omegas) : new Float32Array(1);
    const candidates = floatsOf(pair ? vectors.candidates : vectors.actions);
    const noise = pair ? floatsOf(vectors.noise) : null;
    const each = pair ? noise.length / vectors.count / this.bundle.guidance.noise_size : 1;
    const ofNoise = pair ? each * this.bundle.guidance.noise_size : 0;
    for (let vector = 0; vector < vectors.count; vector += 1) {
      const seen = observations.slice(vector * observation.size, (vector + 1) * observation.size);
      const start = pair ? noise.slice(vector * ofNoise, (vector + 1) * ofNoise) : null;
      const { action: actions, q } = await this.run(seen, start, pair ? omegas : null);
      for (let row = 0; row < omegas.length; row += 1) {
        const first = (vector * omegas.length + row) * each;
        const ofQ = q.slice(row * each, (row + 1) * each);
        const at = (first + chosenOf(ofQ)) * size;
        const found = actions.slice(row * size, (row + 1) * size);
        compare(found, candidates.slice(at, at + size), ofQ, expectedQ.slice(first, first + each));
      }
      // The page stays alive between two runs.
      await pause();
    }
    return worst;
  }
}

function chosenOf(q) {
  return q.indexOf(Math.max(...q));
}

function largest(one, other) {
  return Number.isNaN(other) ? Infinity : Math.max(one, other);
}

function pause(milliseconds = 0) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

// Standard normal numbers that depend on the seed alone.
function normals(count, seed) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (((mixed ^ (mixed >>> 14)) >>> 0) + 0.5) / 4294967296;
  };
  return Float32Array.from({ length: count }, () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()));
}
