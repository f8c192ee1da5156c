// Sliders with a number beside them; every value is a number of the bundle's own scale.

const GROUP = 64;
// In a number's field; what is computed with has them all.
const DIGITS = 4;

// change(value) is called with every value that is accepted. strict: values outside the range are refused.
function slider({ id, label, low, high, value, snap = (number) => number, strict = false, whole = false, change }) {
  const range = element("input", { type: "range", id, min: low, max: high, step: whole ? 1 : "any" });
  const number = element("input", { type: "number", step: whole ? 1 : "any", "aria-label": `${label}, as a number` });
  const set = (next) => {
    range.value = next;
    number.value = +next.toPrecision(DIGITS);
    number.setCustomValidity("");
  };
  range.addEventListener("input", () => {
    const next = snap(Number(range.value));
    number.value = +next.toPrecision(DIGITS);
    number.setCustomValidity("");
    change(next);
  });
  number.addEventListener("input", () => {
    const next = number.valueAsNumber;
    const outside = strict && !(next >= low && next <= high);
    const odd = whole && !Number.isInteger(next);
    const finite = Number.isFinite(Math.fround(next));
    const problem = finite && !outside && !odd ? "" : `expected ${expected(low, high, strict, whole)}`;
    number.setCustomValidity(problem);
    number.reportValidity();
    if (problem) return;
    range.value = next;
    change(next);
  });
  set(value);
  const name = element("label", { for: id }, element("bdi", {}, label));
  return { row: element("div", { class: "slider" }, name, range, number), set };
}

function expected(low, high, strict, whole) {
  const kind = whole ? "a whole number" : "a number";
  return strict ? `${kind} from ${shown(low)} to ${shown(high)}` : `${kind} that fits into 32 bits`;
}

// Rounds to a hundredth of the range, or nearly so; the ends of the range stay exact.
function snapping(low, high) {
  const unit = 10 ** Math.floor(Math.log10((high - low) / 50));
  return (value) => {
    if (value <= low + unit / 2) return low;
    if (value >= high - unit / 2) return high;
    return +(Math.round(value / unit) * unit).toPrecision(12);
  };
}

// One group for each part of a Dict observation, and for every 64 elements; its sliders are made when it is opened.
// change(index, value); the result's set(values) shows other values.
function observationSliders(spec, values, change) {
  const made = new Map();
  const groups = [];
  let start = 0;
  for (const part of spec.parts) {
    for (let first = start; first < start + part.size; first += GROUP)
      groups.push({ key: part.key, first, last: Math.min(first + GROUP, start + part.size) });
    start += part.size;
  }
  const fill = (box, { first, last }) => {
    if (box.children.length) return;
    for (let index = first; index < last; index += 1) {
      const one = slider({
        id: `observation-${index}`,
        label: spec.names[index],
        low: spec.low[index],
        high: spec.high[index],
        value: values[index],
        change: (value) => change(index, value),
      });
      made.set(index, one);
      box.append(one.row);
    }
  };
  const nodes = groups.map((group, index) => {
    const box = element("div", { class: "sliders" });
    const key = group.key === null ? "elements" : group.key;
    const count = `${group.first + 1}–${group.last} of ${spec.size}`;
    const title = element("summary", {}, element("bdi", {}, key), ` ${count}`);
    const open = index === 0 || group.last <= GROUP;
    if (open) fill(box, group);
    if (groups.length === 1) return box;
    return element("details", { open, ontoggle: () => fill(box, group) }, title, box);
  });
  const set = () => made.forEach((one, index) => one.set(values[index]));
  return { nodes, set };
}

// "−1, 0, 0.5" → numbers; throws a sentence for anything but one to twelve numbers within the range.
function numbersOf(text, low, high) {
  const words = text.replaceAll("−", "-").split(/[\s,;]+/).filter(Boolean);
  if (words.length < 1 || words.length > 12) throw new Error(`found ${words.length} numbers, expected 1 to 12`);
  return words.map((word) => {
    const number = Number(word);
    if (!(number >= low && number <= high))
      throw new Error(`found ${word.slice(0, 20)}, expected numbers from ${shown(low)} to ${shown(high)}`);
    return number;
  });
}
