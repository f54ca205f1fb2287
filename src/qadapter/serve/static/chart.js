// A line chart as SVG, with a readout for the pointer and the arrow keys.

import { el, figure, svg } from "./dom.js";

const WIDTH = 420;
const HEIGHT = 190;
const LEFT = 46;
const RIGHT = 12;
const TOP = 10;
const BOTTOM = 26;

/**
 * A figure with its curves.
 * @param {{title: string, series: {name: string, points: [number, ?number][]}[]}} chart points are step and value; a
 *   value that is null (it was no number) leaves a gap
 */
export function lineChart({ title, series }) {
  const points = series.flatMap((one) => one.points);
  const xs = scale(points.map(([step]) => step), LEFT, WIDTH - RIGHT);
  const known = points.map(([, value]) => value).filter((value) => value !== null);
  const ys = scale([...known, 0], HEIGHT - BOTTOM, TOP);
  const cursor = svg("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  const drawing = svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", tabindex: 0, "aria-label": `${title}: ${inWords(series)}` },
    ...ys.ticks.flatMap((value) => [
      svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: ys.at(value), y2: ys.at(value) }),
      svg("text", { class: "tick", x: LEFT - 6, y: ys.at(value) + 4, "text-anchor": "end" }, tick(value)),
    ]),
    ...xs.ticks.map((step) =>
      svg("text", { class: "tick", x: xs.at(step), y: HEIGHT - 8, "text-anchor": "middle" }, tick(step)),
    ),
    ...series.flatMap(({ points }, i) => curve(points, xs, ys, i)),
    cursor,
  );
  const legend = series.map(({ name }, i) =>
    el("span", { class: `series line-${i}` }, svg("svg", { viewBox: "0 0 22 4" }, svg("path", { d: "M0 2H22" })), name),
  );
  const readout = el("p", { class: "quiet readout", "aria-live": "polite" }, "\u00a0");
  follow(drawing, cursor, readout, series, xs);
  return el("figure", {}, el("figcaption", {}, el("h3", {}, title), ...legend), drawing, readout);
}

/** A linear scale of some values onto pixels, with ticks at round numbers. */
function scale(values, from, to) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const span = high - low || 1;
  const power = 10 ** Math.floor(Math.log10(span / 4));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => span / size <= 5);
  const ticks = [];
  for (let value = Math.ceil(low / step); value * step <= high + step / 1e6; value += 1) ticks.push(value * step);
  return { at: (value) => from + ((value - low) / span) * (to - from), ticks };
}

function curve(points, xs, ys, i) {
  let path = "";
  let pen = "M";
  for (const [step, value] of points) {
    if (value === null) {
      pen = "M";
      continue;
    }
    path += `${pen}${xs.at(step).toFixed(1)} ${ys.at(value).toFixed(1)}`;
    pen = "L";
  }
  const drawn = [svg("path", { class: `curve line-${i}`, d: path })];
  // One point makes no line.
  if (points.length === 1 && points[0][1] !== null) {
    drawn.push(svg("circle", { class: `point line-${i}`, cx: xs.at(points[0][0]), cy: ys.at(points[0][1]), r: 3 }));
  }
  return drawn;
}

/** The values at the step that is nearest to the pointer, or one further with the arrow keys. */
function follow(drawing, cursor, readout, series, xs) {
  const steps = [...new Set(series.flatMap(({ points }) => points.map(([step]) => step)))].sort((a, b) => a - b);
  let at = steps.length - 1;
  const show = () => {
    const step = steps[at];
    const values = series.flatMap(({ name, points }) =>
      points.filter((point) => point[0] === step).map((point) => `${name} ${figure(point[1])}`),
    );
    readout.textContent = `step ${step}: ${values.join(", ")}`;
    cursor.setAttribute("x1", xs.at(step));
    cursor.setAttribute("x2", xs.at(step));
    cursor.setAttribute("visibility", "visible");
  };
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * WIDTH;
    const distance = steps.map((step) => Math.abs(xs.at(step) - x));
    at = distance.indexOf(Math.min(...distance));
    show();
  });
  drawing.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    at = Math.min(Math.max(at + move, 0), steps.length - 1);
    show();
  });
  drawing.addEventListener("focus", show);
}

function inWords(series) {
  const said = series.map(({ name, points }) => {
    const [first, last] = [points[0], points.at(-1)];
    return `${name} from ${figure(first[1])} at step ${first[0]} to ${figure(last[1])} at step ${last[0]}`;
  });
  return said.join("; ");
}

const tick = (value) => String(Number(value.toPrecision(6))).replace("-", "−");
