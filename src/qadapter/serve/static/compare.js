// Base and customized side by side, and the dial between them.

import { Answer } from "./answer.js";
import { byId, el, number } from "./dom.js";
import { TokenView } from "./tokens.js";

// After the slider rests this long, the answer is asked again: as long as a hand pauses between two steps of it.
const PAUSE = 250;

export class Compare {
  #base = new Answer("Base");
  #customized = new Answer("Customized");
  #tokens = new TokenView();
  #slider = byId("strength");
  #looking = el("button", { type: "button", "aria-pressed": "false", "aria-controls": "tokens", id: "look" }, "Tokens");
  #question = null;
  #baseModel = null;
  #timer = null;

  constructor() {
    byId("columns").append(this.#base.element, this.#customized.element);
    this.#customized.element.classList.add("customized");
    this.#customized.element.querySelector("header").append(this.#looking);
    this.#slider.addEventListener("input", () => this.#turn());
    this.#looking.addEventListener("click", () => this.#look());
    this.#showStrength();
  }

  /** Answer a question with both policies. */
  async ask(question) {
    this.#question = question;
    // The base by its own name: strength 0 is the base at another temperature where α₀ ≠ α̃.
    await Promise.all([this.#base.ask({ ...question, model: this.#baseModel }), this.#again()]);
  }

  /** The name of the base. */
  useBase(model) {
    this.#baseModel = model;
    this.#base.badge = model;
  }

  /** An entry of the list of models. The base's answer stays: it is the same for every adapter. */
  useAdapter({ id, qadapter }) {
    const share = qadapter.alpha_0 / qadapter.alpha_tilde;
    byId("strength-0").textContent = share === 1 ? "the base" : `the base, ${share < 1 ? "flattened" : "sharpened"}`;
    if (this.#question === null) return;
    this.#question = { ...this.#question, model: id };
    this.#again();
  }

  stop() {
    clearTimeout(this.#timer);
    this.#base.stop();
    this.#customized.stop();
    this.#tokens.stop();
  }

  #turn() {
    this.#showStrength();
    clearTimeout(this.#timer);
    if (this.#question === null) return;
    this.#customized.stop();
    this.#timer = setTimeout(() => this.#again(), PAUSE);
  }

  /** Answer the last question again at the slider's strength. */
  async #again() {
    clearTimeout(this.#timer);
    this.#tokens.clear();
    const [question, strength] = [this.#question, this.#slider.valueAsNumber];
    const ended = await this.#customized.ask({ ...question, strength });
    if (ended && this.#isLooking()) await this.#tokens.show(question, strength, this.#customized.text);
  }

  /** Open or close the view of the tokens. */
  #look() {
    const open = !this.#isLooking();
    this.#looking.setAttribute("aria-pressed", open);
    this.#tokens.element.hidden = !open;
    if (open && this.#question !== null) {
      this.#tokens.show(this.#question, this.#slider.valueAsNumber, this.#customized.text);
    }
  }

  #isLooking() {
    return this.#looking.getAttribute("aria-pressed") === "true";
  }

  #showStrength() {
    const strength = number(this.#slider.valueAsNumber);
    byId("strength-value").textContent = strength;
    this.#customized.badge = `strength ${strength}`;
  }
}
