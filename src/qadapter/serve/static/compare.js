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
  #timer = null;

  constructor() {
    byId("columns").append(this.#base.element, this.#customized.element);
    this.#base.badge = "strength 0";
    this.#customized.element.classList.add("customized");
    this.#customized.element.querySelector("header").append(this.#looking);
    this.#slider.addEventListener("input", () => this.#turn());
    this.#looking.addEventListener("click", () => this.#look());
    this.#showStrength();
  }

  /** Answer a question with both policies. */
  async ask(question) {
    this.#question = question;
    await Promise.all([this.#base.ask({ ...question, strength: 0 }), this.#again()]);
  }

  /** The base stays; its answer is the same for every adapter. */
  useModel(model) {
    if (this.#question === null) return;
    this.#question = { ...this.#question, model };
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
