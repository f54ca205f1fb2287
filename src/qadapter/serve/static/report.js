// What the training and its evaluations left in the adapter's folder.

import { ApiError, getJson } from "./api.js";
import { lineChart } from "./chart.js";
import { byId, el, figure } from "./dom.js";

// Figures of the log that belong into one chart. Each may also have been measured on held-out pairs, as `eval_…`.
const CHARTS = [
  { title: "Loss", names: ["loss", "preference_loss"] },
  { title: "Pairs ranked right", names: ["rewards/accuracies"] },
  { title: "Reward margin", names: ["rewards/margins"] },
  { title: "χ² penalty", names: ["chi2"] },
];
const CONSTANTS = {
  parametrization: "what the LoRA's logits say of Q̂",
  alpha_0: "α₀, weight of the base policy",
  alpha_tilde: "α̃, entropy temperature of the customized policy",
  gamma: "γ, discount",
  chi2_coef: "weight of the χ² penalty",
  sft_coef: "weight of the chosen responses' likelihood",
};

export class Report {
  #element = byId("report");
  #controller = null;

  /** Show the report of an adapter. */
  async load(model) {
    this.stop();
    if (!model) return;
    const controller = (this.#controller = new AbortController());
    this.#element.replaceChildren(el("p", { class: "status", role: "status" }, "reading the report"));
    let shown;
    try {
      shown = sections(await getJson(`v1/playground/report?model=${encodeURIComponent(model)}`, controller.signal));
    } catch (problem) {
      if (problem.name === "AbortError") shown = [el("p", { class: "status" }, "stopped")];
      else if (problem instanceof ApiError) shown = [el("p", { class: "error", role: "alert" }, problem.message)];
      else throw problem;
    }
    if (this.#controller === controller) this.#element.replaceChildren(...shown);
  }

  stop() {
    this.#controller?.abort();
  }
}

function sections(report) {
  return [
    section(report.model, constants(report.config)),
    section("Training", ...curves(report.metrics)),
    ...Object.entries(report.evaluations).map(([file, evaluation]) => section(file, ...tables(evaluation))),
    ...(Object.keys(report.evaluations).length ? [] : [section("What was gained, what was kept", evaluateFirst())]),
  ];
}

function section(title, ...children) {
  return el("section", { class: "card" }, el("h2", {}, title), ...children);
}

function constants({ base, constants }) {
  const facts = [["base", base.name_or_path, "the model that the adapter was trained on"]];
  for (const [name, value] of Object.entries(constants)) facts.push([name, String(value), CONSTANTS[name] ?? ""]);
  const rows = facts.flatMap(([name, value, meaning]) => [
    el("dt", {}, name),
    el("dd", {}, value, " ", el("span", { class: "quiet" }, meaning)),
  ]);
  return el("dl", {}, ...rows);
}

function curves(metrics) {
  const charts = CHARTS.map(({ title, names }) => {
    const series = names
      .flatMap((name) => [name, `eval_${name}`])
      .map((name) => ({ name, points: metrics.filter((line) => name in line).map((line) => [line.step, line[name]]) }))
      .filter(({ points }) => points.length);
    return { title, series };
  }).filter(({ series }) => series.length);
  if (!charts.length) return [el("p", { class: "quiet" }, "There is no training log in the adapter's folder.")];
  return [el("div", { class: "charts" }, ...charts.map(lineChart))];
}

function evaluateFirst() {
  const command = el("code", {}, "qadapter eval DIR … --output DIR/eval.json");
  return el("p", { class: "quiet" }, "There is no evaluation in the adapter's folder. ", command, " writes one.");
}

/** A file of `qadapter eval` has policies with their difference to the base; of any other the figures are listed. */
function tables(evaluation) {
  const compared = (evaluation.policies ?? []).filter((policy) => policy.difference);
  if (!compared.length) return [table(["figure", "value"], figuresOf(evaluation))];
  return [
    el(
      "p",
      { class: "quiet" },
      "In brackets 95 % intervals of the difference to the base; where the base has no value, of the figure itself. ",
      "A filled dot marks a difference whose interval leaves out 0.",
    ),
    ...compared.map((policy) =>
      table(
        ["", "base", `strength ${policy.strength}`, "difference", "95 % interval", "items"],
        Object.entries(policy.difference).map(([name, row]) => comparedRow(name, row)),
      ),
    ),
  ];
}

function comparedRow(name, row) {
  const paired = row.difference !== null;
  const clear = paired && (row.low > 0 || row.high < 0);
  return [
    name,
    figure(row.base),
    figure(row.customized),
    paired ? `${figure(row.difference, true)} ${clear ? "●" : "○"}` : "–",
    `[${figure(row.low, paired)}, ${figure(row.high, paired)}]`,
    String(row.items),
  ];
}

/** Every number and text of a JSON value that is not in a list, by its place. */
function figuresOf(value, place = []) {
  if (Array.isArray(value)) return [];
  if (value !== null && typeof value === "object") {
    return Object.entries(value).flatMap(([name, inner]) => figuresOf(inner, [...place, name]));
  }
  return [[place.join(" · "), typeof value === "number" ? figure(value) : String(value)]];
}

function table(head, rows) {
  return el(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": head.join(" ") },
    el(
      "table",
      {},
      el("thead", {}, el("tr", {}, ...head.map((text) => el("th", { scope: "col" }, text)))),
      el("tbody", {}, ...rows.map(([name, ...values]) => tableRow(name, values))),
    ),
  );
}

function tableRow(name, values) {
  // Long names may break behind their dots and dashes.
  const parts = name.split(/(?<=[._:])/).flatMap((part) => [part, el("wbr")]);
  return el("tr", {}, el("th", { scope: "row" }, ...parts), ...values.map((value) => el("td", {}, value)));
}
