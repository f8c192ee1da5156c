// What the policy did, as tables and pictures; every number is also there in full, as data-value.

const MOST_ACTIONS = 32;

// A bar from zero (or from the nearer end of the range) to the value, in a track from low to high.
function bar(value, low, high) {
  const place = (number) => (100 * (Math.min(high, Math.max(low, number)) - low)) / (high - low);
  const zero = place(0);
  const at = place(value);
  return element(
    "svg",
    { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
    element("rect", { class: "track", x: 0, y: 0, width: 100, height: 10 }),
    element("rect", { class: "fill", x: Math.min(zero, at), y: 0, width: Math.abs(at - zero), height: 10 }),
    element("line", { class: "zero", x1: zero, x2: zero, y1: 0, y2: 10 }),
    element("line", { class: "value", x1: at, x2: at, y1: 0, y2: 10 }),
  );
}

function actionBars(action, spec) {
  const rows = [...action.slice(0, MOST_ACTIONS)].map((value, index) =>
    element(
      "li",
      { "data-value": value },
      element("bdi", { class: "name" }, spec.names[index]),
      element("span", { class: "number" }, shown(value)),
      bar(value, spec.low[index], spec.high[index]),
      element("span", { class: "low" }, shown(spec.low[index])),
      element("span", { class: "high" }, shown(spec.high[index])),
    ),
  );
  const more = action.length - rows.length;
  return more > 0 ? [...rows, element("li", { class: "more" }, `… and ${more} more`)] : rows;
}

// One dot for each candidate's q; the chosen one is filled.
function candidateDots(q) {
  const chosen = chosenOf(q);
  const [low, high] = [Math.min(...q), Math.max(...q)];
  const place = (value) => (high > low ? 8 + (284 * (value - low)) / (high - low) : 150);
  const dots = [...q].map((value, index) =>
    element("circle", { class: index === chosen ? "chosen" : "other", cx: place(value), cy: 10, r: 5 }),
  );
  // The chosen one above the others.
  dots.push(...dots.splice(chosen, 1));
  const label = `q of ${q.length} candidates, from ${shown(low)} to ${shown(high)}; the largest is chosen`;
  return element(
    "svg",
    { class: "candidates", viewBox: "0 0 300 20", role: "img", "aria-label": label },
    element("line", { class: "axis", x1: 0, x2: 300, y1: 10, y2: 10 }),
    ...dots,
  );
}

// Rows: the action's elements and the chosen candidate's q; columns: values of the knob. choose(omega) is called by a
// click on a column's title.
function comparison(results, spec, knob, choose) {
  const titles = results.map(({ omega, current }) =>
    element(
      "th",
      { scope: "col", class: current ? "current" : "" },
      element("button", { type: "button", onclick: () => choose(omega) }, shown(knob.ofOmega(omega))),
    ),
  );
  const named = spec.names.slice(0, MOST_ACTIONS);
  const rows = named.map((name, index) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, element("bdi", {}, name)),
      ...results.map(({ action, current }) =>
        element(
          "td",
          { class: current ? "current" : "", "data-value": action[index] },
          shown(action[index], 3),
          bar(action[index], spec.low[index], spec.high[index]),
        ),
      ),
    ),
  );
  const returns = results.map(({ q, current }) =>
    element("td", { class: current ? "current" : "", "data-value": q }, shown(q, 4)),
  );
  const [head, body, foot] = ["thead", "tbody", "tfoot"].map((tag) => element(tag));
  head.append(element("tr", {}, element("th", { scope: "col" }, element("bdi", {}, knob.name)), ...titles));
  body.append(...rows);
  foot.append(element("tr", {}, element("th", { scope: "row" }, "q"), ...returns));
  return element("table", {}, head, body, foot);
}

const CHART = { width: 210, height: 105, left: 1, right: 1, top: 4, bottom: 17 };

// A line of y over the knob, with the current point; low and high are the ends of the vertical axis.
function curve(name, points, current, low, high, knob) {
  const { width, height, left, right, top, bottom } = CHART;
  const [first, last] = [points[0].omega, points[points.length - 1].omega];
  const x = (omega) => left + ((width - left - right) * (omega - first)) / (last - first);
  const y = (value) => top + ((height - top - bottom) * (high - value)) / (high - low);
  const path = points.map(({ omega, value }, index) => `${index ? "L" : "M"}${x(omega).toFixed(2)} ${y(value).toFixed(2)}`);
  const label = `${name} over ${knob.name}: ${shown(points[0].value)} at ${shown(knob.ofOmega(first))}, ${shown(
    points[points.length - 1].value,
  )} at ${shown(knob.ofOmega(last))}`;
  const text = (words, attributes) => element("text", attributes, words);
  return element(
    "figure",
    {},
    element("figcaption", {}, element("bdi", {}, name)),
    element(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
      element("rect", { class: "plot", x: left, y: top, width: width - left - right, height: height - top - bottom }),
      low < 0 && high > 0 ? element("line", { class: "zero", x1: left, x2: width - right, y1: y(0), y2: y(0) }) : "",
      element("line", { class: "cursor", x1: x(current.omega), x2: x(current.omega), y1: top, y2: height - bottom }),
      element("path", { class: "curve", d: path.join("") }),
      element("circle", { class: "chosen", cx: x(current.omega), cy: y(current.value), r: 4.5 }),
      text(shown(high, 3), { x: left + 4, y: top + 12 }),
      text(shown(low, 3), { x: left + 4, y: height - bottom - 5 }),
      text(shown(knob.ofOmega(first)), { x: left, y: height - 4 }),
      text(shown(knob.ofOmega(last)), { x: width - right, y: height - 4, "text-anchor": "end" }),
    ),
  );
}

// points: [{omega, action, q}] in the order of omega; current: one of that kind.
function curves(points, current, spec, knob) {
  const figures = spec.names.slice(0, MOST_ACTIONS).map((name, index) => {
    const values = points.map(({ omega, action }) => ({ omega, value: action[index] }));
    const now = { omega: current.omega, value: current.action[index] };
    return curve(name, values, now, spec.low[index], spec.high[index], knob);
  });
  const returns = points.map(({ omega, q }) => ({ omega, value: q }));
  const all = [...returns.map(({ value }) => value), current.q];
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const margin = high > low ? 0.1 * (high - low) : 1;
  const now = { omega: current.omega, value: current.q };
  return [...figures, curve("q", returns, now, low - margin, high + margin, knob)];
}
