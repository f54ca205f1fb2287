// Which tokens of an answer the adapter made likelier or less likely, and what else was likely.

import { ApiError, postJson } from "./api.js";
import { byId, el, number, say } from "./dom.js";

// Nats of log-ratio at which colour and line are at their strongest: a factor of 20.
const FULL = 3;
// A token whose probability changed by more than a factor of e counts as changed.
const CHANGED = 1;
const TOP = 5;

export class TokenView {
  element = byId("tokens");
  #text = byId("token-text");
  #detail = byId("token-detail");
  #status = byId("tokens-status");
  #error = byId("tokens-error");
  #controller = null;
  #tokens = [];

  constructor() {
    for (const sample of this.element.querySelectorAll("[data-sample]")) tint(sample, Number(sample.dataset.sample));
    const at = (event) => event.target.closest("[data-index]");
    for (const kind of ["pointerover", "focusin", "click"]) {
      this.#text.addEventListener(kind, (event) => at(event) && this.#select(Number(at(event).dataset.index)));
    }
    this.#text.addEventListener("keydown", (event) => this.#walk(event));
  }

  /** Look at an answer, or at as much of it as there is. */
  async show(question, strength, answer) {
    this.clear();
    if (!answer) {
      this.#status.textContent = "There is no answer to look at yet.";
      return;
    }
    const controller = (this.#controller = new AbortController());
    this.#status.textContent = "reading the answer with both policies";
    try {
      const { model, messages } = question;
      const body = { model, messages, strength, answer, top: TOP };
      const view = await postJson("v1/playground/tokens", body, controller.signal);
      if (this.#controller === controller) this.#draw(view.tokens);
    } catch (problem) {
      if (this.#controller !== controller) return;
      this.#status.textContent = problem.name === "AbortError" ? "stopped" : "";
      if (problem instanceof ApiError) say(this.#error, problem.message);
      else if (problem.name !== "AbortError") throw problem;
    }
  }

  /** Forget what was looked at. */
  clear() {
    this.stop();
    this.#controller = null;
    this.#tokens = [];
    this.#text.replaceChildren();
    this.#detail.replaceChildren();
    this.#status.textContent = "";
    say(this.#error, "");
  }

  stop() {
    this.#controller?.abort();
  }

  #draw(tokens) {
    this.#tokens = tokens;
    this.#text.replaceChildren(...tokens.flatMap((token, index) => this.#drawn(token, index)));
    const changed = tokens.filter((token) => Math.abs(token.log_ratio) > CHANGED);
    const mean = tokens.reduce((sum, token) => sum + token.log_ratio, 0) / tokens.length;
    this.#status.textContent =
      `${changed.length} of ${tokens.length} tokens changed by more than ${CHANGED} nat; ` +
      `mean log-ratio ${number(mean, 2, true)}`;
    const most = tokens.reduce((best, token, i) => (size(token) > size(tokens[best]) ? i : best), 0);
    this.#select(most);
  }

  #drawn(token, index) {
    const label = `${visible(token.text)}, log-ratio ${number(token.log_ratio, 2, true)}`;
    const span = el("span", { class: "token", role: "button", tabindex: -1, "data-index": index, "aria-label": label });
    tint(span, token.log_ratio);
    // A token that is a line break could not be seen or pointed at.
    span.textContent = token.text.replaceAll("\n", "↵");
    return [span, "\n".repeat(token.text.split("\n").length - 1)];
  }

  #select(index) {
    const chosen = this.#text.querySelector("[aria-pressed=true]");
    const next = this.#text.querySelector(`[data-index="${index}"]`);
    if (chosen === next) return;
    chosen?.setAttribute("aria-pressed", "false");
    chosen?.setAttribute("tabindex", -1);
    next.setAttribute("aria-pressed", "true");
    next.setAttribute("tabindex", 0);
    this.#detail.replaceChildren(...details(this.#tokens[index]));
  }

  #walk(event) {
    const steps = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, Home: -Infinity, End: Infinity };
    const step = steps[event.key];
    if (step === undefined || !event.target.dataset.index) return;
    event.preventDefault();
    const index = Math.min(Math.max(Number(event.target.dataset.index) + step, 0), this.#tokens.length - 1);
    this.#text.querySelector(`[data-index="${index}"]`).focus();
  }
}

const size = (token) => Math.abs(token.log_ratio);

/** Colour and line by a log-ratio. */
function tint(span, ratio) {
  const share = Math.min(Math.abs(ratio) / FULL, 1);
  span.classList.toggle("raised", ratio > 0);
  span.classList.toggle("lowered", ratio < 0);
  span.style.setProperty("--share", share.toFixed(3));
}

function visible(text) {
  return text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "␣") || "(nothing)";
}

function details(token) {
  const row = (term, value, meaning) => [
    el("dt", { title: meaning }, term),
    el("dd", {}, value),
  ];
  const both = (logp) => `${number(logp)} (${percent(logp)})`;
  return [
    el("h3", {}, el("code", {}, visible(token.text))),
    el(
      "dl",
      {},
      ...row("log π̃", both(token.logp), "log-probability under the customized policy, nats"),
      ...row("log π₀", both(token.base_logp), "log-probability under the base, nats"),
      ...row("log-ratio", number(token.log_ratio, 2, true), "log π̃ − log π₀"),
      ...row("Q̂", number(token.q, 3, true), "what the adapter learned the token is worth, at strength 1"),
    ),
    el(
      "div",
      { class: "tops" },
      likeliest("Base", token.base_top, token.text),
      likeliest("Customized", token.top, token.text),
    ),
  ];
}

function likeliest(title, top, chosen) {
  const lines = top.map(({ text, logp }) => {
    const line = el("li", {}, el("code", {}, visible(text)), el("span", {}, percent(logp)));
    line.style.setProperty("--p", Math.exp(logp).toFixed(4));
    if (text === chosen) line.classList.add("chosen");
    return line;
  });
  return el("div", { class: title.toLowerCase() }, el("h4", {}, title), el("ol", {}, ...lines));
}

function percent(logp) {
  const share = 100 * Math.exp(logp);
  return share < 0.05 ? "<0.1 %" : `${share.toFixed(1)} %`;
}
