// The page: says what the bundle is, checks it, and shows what the policy does while something is turned.

const CURVE_POINTS = 25;
const SMOOTH_MILLISECONDS = 40;
const USUAL_OMEGAS = [-1, 0, 0.5, 1, 2, 4];

const at = (id) => document.getElementById(id);
const bundle = JSON.parse(block("description"));
const { guidance } = bundle;
// The number that is turned: ω itself, or what the algorithm calls it.
const knob = {
  name: guidance?.knob?.name ?? "ω",
  title: guidance?.knob?.title ?? "greediness ω",
  more: guidance?.knob?.more_than_omega ?? 0,
  ofOmega: (omega) => +(omega + knob.more).toPrecision(7),
  turns: guidance !== null && guidance.omega.high > guidance.omega.low,
};

const state = {
  observation: floatsOf(bundle.vectors.observations).slice(0, bundle.observation.size),
  omega: guidance?.omega.default,
  candidates: guidance?.num_candidates,
  noiseSeed: null,
  compared: [],
};
let policy;
let generation = 0;

function refuse(error) {
  document.body.dataset.state = "refused";
  at("main").hidden = true;
  const status = at("status");
  status.className = "refused";
  status.setAttribute("role", "alert");
  status.textContent = `This page refuses to act: ${error?.message ?? error}.`;
}

function introduce() {
  const { algorithm, dataset } = bundle.facts;
  if (algorithm) at("title").textContent = document.title = `${algorithm} in the browser`;
  const facts = [dataset, bundle.precision, `bundle ${bundle.hash.slice(0, 12)}`].filter(Boolean);
  at("facts").textContent = facts.join(" · ");
  at("explanation").replaceChildren(...explanation());
}

function explanation() {
  const { size } = bundle.observation;
  const here = " It runs in this file, in your browser: nothing is sent anywhere.";
  if (guidance === null)
    return [
      `Change the observation and watch the action. This policy is deterministic: one action of ${bundle.action.size} ` +
        `for an observation of ${size}, and nothing to turn. q is the return that the critics expect of it.${here}`,
    ];
  const choice = " Of N candidates the critics choose the one with the largest q, the return they expect.";
  if (!knob.turns)
    return [
      `Change the observation and watch the action. The policy gets from noise to an action in ${guidance.flow_steps} ` +
        `steps; how greedily it does so cannot be turned.${choice}${here}`,
    ];
  const formula = element("span", { class: "formula" }, "v = (1 + ω)·v⁺ − ω·v⁻");
  if (guidance.knob) {
    const sum = `${knob.more < 0 ? "−" : "+"} ${shown(Math.abs(knob.more))}`;
    const name = () => element("bdi", {}, knob.name);
    const own = [name(), ` = ω ${sum} (`, element("bdi", {}, guidance.knob.meaning), ")"];
    return ["Turn ", name(), " and watch the action. The policy follows ", formula, ", ", ...own, `.${choice}${here}`];
  }
  const meaning = ": −1 is the negative policy, 0 the positive, more is greedier, and in the end leaves the data.";
  return ["Turn ω and watch the action. The policy follows ", formula, `${meaning}${choice}${here}`];
}

function noise() {
  const count = guidance.most_candidates * guidance.noise_size;
  const all = state.noiseSeed === null ? floatsOf(guidance.noise) : normals(count, state.noiseSeed);
  return all.slice(0, state.candidates * guidance.noise_size);
}

function changed() {
  generation += 1;
  document.body.dataset.settled = "false";
  update(generation).catch(refuse);
}

// The current action at once; the comparison and the curves when nothing has changed for a moment.
async function update(mine) {
  await pause();
  if (mine !== generation) return;
  const observation = state.observation.slice();
  if (guidance === null) {
    drawAction(await policy.run(observation));
  } else {
    const start = noise();
    const one = await policy.run(observation, start, Float32Array.of(state.omega));
    if (mine !== generation) return;
    drawAction(one);
    if (knob.turns) {
      await pause(60);
      if (mine !== generation || !(await compare(mine, observation, start, one))) return;
    }
  }
  if (mine === generation) document.body.dataset.settled = "true";
}

async function compare(mine, observation, start, one) {
  const columns = rowsOf(await policy.run(observation, start, Float32Array.from(state.compared)), state.compared);
  if (mine !== generation) return false;
  columns.forEach((column) => (column.current = column.omega === state.omega));
  at("comparison").replaceChildren(comparison(columns, bundle.action, knob, chooseOmega));
  const { low, high } = guidance.omega;
  const omegas = Array.from({ length: CURVE_POINTS }, (_, index) => low + ((high - low) * index) / (CURVE_POINTS - 1));
  const together = Math.min(CURVE_POINTS, Math.max(1, Math.floor(SMOOTH_MILLISECONDS / one.milliseconds)));
  const points = [];
  while (points.length < CURVE_POINTS) {
    const some = omegas.slice(points.length, points.length + together);
    points.push(...rowsOf(await policy.run(observation, start, Float32Array.from(some)), some));
    await pause();
    if (mine !== generation) return false;
  }
  const [current] = rowsOf(one, [state.omega]);
  at("curve-list").replaceChildren(...curves(points, current, bundle.action, knob));
  return true;
}

// Of each ω: its action, and its chosen candidate's q.
function rowsOf({ action, q }, omegas) {
  const [size, each] = [bundle.action.size, q.length / omegas.length];
  return omegas.map((omega, row) => ({
    omega,
    action: action.slice(row * size, (row + 1) * size),
    q: Math.max(...q.slice(row * each, (row + 1) * each)),
  }));
}

function drawAction({ action, q, milliseconds }) {
  at("bars").replaceChildren(...actionBars(action, bundle.action));
  const best = Math.max(...q);
  const of = guidance === null ? "" : ` of ${q.length === 1 ? "the only candidate" : `the best of ${q.length} candidates`}`;
  at("q").replaceChildren("q ", element("strong", { "data-value": best }, shown(best)), of);
  at("dots").replaceChildren(...(q.length > 1 ? [candidateDots(q)] : []));
  const words = knob.turns ? [" at ", element("bdi", {}, knob.name), ` = ${shown(knob.ofOmega(state.omega))}`] : [];
  at("action-title").replaceChildren("Action", ...words);
  at("milliseconds").textContent = `${shown(milliseconds, 2)} ms`;
}

let omegaSlider;

function chooseOmega(omega) {
  state.omega = omega;
  omegaSlider.set(knob.ofOmega(omega));
  changed();
}

function buildGuidance() {
  at("knob-title").textContent = knob.turns ? capital(knob.title) : "Candidates";
  if (knob.turns) {
    const [low, high] = [guidance.omega.low, guidance.omega.high].map(knob.ofOmega);
    const snap = snapping(low, high);
    const change = (value) => {
      state.omega = omegaOf(value);
      changed();
    };
    const value = knob.ofOmega(state.omega);
    omegaSlider = slider({ id: "knob", label: knob.name, low, high, value, snap, strict: true, change });
    omegaSlider.row.classList.add("knob");
    at("knobs").append(omegaSlider.row, ends(low, high));
    buildComparison(low, high);
  }
  const candidates = slider({
    id: "candidates",
    label: "candidates N",
    low: 1,
    high: guidance.most_candidates,
    value: state.candidates,
    strict: true,
    whole: true,
    change: (value) => {
      state.candidates = value;
      changed();
    },
  });
  at("knobs").append(candidates.row);
  at("fixed-noise").addEventListener("click", () => setNoise(null));
  at("new-noise").addEventListener("click", () => setNoise((state.noiseSeed ?? 0) + 1));
}

function ends(low, high) {
  const words = guidance.knob ? ["", ""] : [" negative", " greediest"];
  const negative = !guidance.knob && guidance.omega.low === -1;
  return element(
    "p",
    { class: "ends", "aria-hidden": "true" },
    element("span", {}, `${shown(low)}${negative ? words[0] : ""}`),
    element("span", {}, `${shown(high)}${words[1]}`),
  );
}

function omegaOf(value) {
  const { low, high } = guidance.omega;
  // Adding and taking away may leave the range by a rounding.
  return Math.min(high, Math.max(low, +(value - knob.more).toPrecision(12)));
}

function buildComparison(low, high) {
  const { omega } = guidance;
  const inside = USUAL_OMEGAS.filter((value) => value > omega.low && value < omega.high);
  state.compared = [...new Set([omega.low, ...inside, omega.default, omega.high])].sort((one, other) => one - other);
  const input = at("compared");
  input.value = state.compared.map((value) => shown(knob.ofOmega(value))).join(", ");
  at("compared-label").replaceChildren("Values of ", element("bdi", {}, knob.name));
  at("curves-title").replaceChildren("Over the whole range of ", element("bdi", {}, knob.name));
  input.addEventListener("input", () => {
    let problem = "";
    try {
      state.compared = numbersOf(input.value, low, high).map(omegaOf);
    } catch (error) {
      problem = error.message;
    }
    at("compared-problem").textContent = problem;
    input.setAttribute("aria-invalid", String(problem !== ""));
    if (!problem) changed();
  });
}

function setNoise(seed) {
  state.noiseSeed = seed;
  at("fixed-noise").setAttribute("aria-pressed", String(seed === null));
  at("noise-name").textContent = seed === null ? "fixed" : `no. ${seed}`;
  changed();
}

function buildObservation() {
  const sliders = observationSliders(bundle.observation, state.observation, (index, value) => {
    state.observation[index] = value;
    changed();
  });
  at("observation-sliders").append(...sliders.nodes);
  const observations = floatsOf(bundle.vectors.observations);
  const count = Math.min(bundle.vectors.count, 16);
  for (let vector = 0; vector < count; vector += 1) {
    const take = () => {
      const start = vector * bundle.observation.size;
      state.observation.set(observations.subarray(start, start + bundle.observation.size));
      sliders.set();
      changed();
    };
    const label = `Take the observation of test vector ${vector + 1}`;
    at("vectors").append(element("button", { type: "button", "aria-label": label, onclick: take }, String(vector + 1)));
  }
}

function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

async function check() {
  const { action, q } = await policy.differences();
  const accepted = bundle.tolerance;
  const few = (value) => value.toExponential(1).replaceAll("-", "−");
  const found = `${few(action)} of the action's range and ${few(q)} of q`;
  const limits = `${few(accepted.action)} and ${few(accepted.q)} are accepted`;
  if (!(action <= accepted.action && q <= accepted.q))
    throw new Error(`in this browser the policy differs from the trainer's by ${found}, ${limits}`);
  const vectors = bundle.vectors.count === 1 ? "one test vector" : `${bundle.vectors.count} test vectors`;
  const status = at("status");
  status.className = "agrees";
  status.dataset.action = action;
  status.dataset.q = q;
  status.textContent = `Agrees with the trainer to ${found}, on ${vectors}, in this browser (${limits}).`;
}

async function start() {
  if (!("DecompressionStream" in globalThis && "WebAssembly" in globalThis))
    throw new Error("this browser is too old; Chrome or Edge 91, Firefox 113, Safari 16.4 and newer run it");
  introduce();
  policy = await Policy.load(bundle);
  await check();
  for (const id of ["knob-card", "comparison-card", "curves-card"])
    at(id).hidden = id === "knob-card" ? guidance === null : !knob.turns;
  if (guidance !== null) buildGuidance();
  buildObservation();
  at("main").hidden = false;
  // For the browser's console: await dipole.policy.run(observation, noise, omegas).
  globalThis.dipole = { policy, state, bundle, noise };
  document.body.dataset.state = "ready";
  changed();
}

at("notices").addEventListener("toggle", async () => {
  const box = at("notices-text");
  if (!box.textContent) box.textContent = new TextDecoder().decode(await inflated(block("runtime-notices")));
});
start().catch(refuse);
