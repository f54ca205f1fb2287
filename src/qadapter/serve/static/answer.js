// One answer on the page: it streams in, and can be stopped or asked again.

import { ApiError, streamChat } from "./api.js";
import { byId, say } from "./dom.js";

const ENDED = { stop: "", length: ", cut at the token limit" };

export class Answer {
  #controller = null;
  #parts;

  /** @param {string} title above it */
  constructor(title) {
    this.element = byId("answer").content.firstElementChild.cloneNode(true);
    const find = (selector) => this.element.querySelector(selector);
    this.#parts = { badge: find(".badge"), status: find(".status"), text: find(".text"), error: find(".error") };
    find("h2").textContent = title;
    this.#parts.text.setAttribute("aria-label", title);
  }

  /** What has arrived. */
  get text() {
    return this.#parts.text.textContent;
  }

  /** Words beside the title. */
  set badge(words) {
    this.#parts.badge.textContent = words;
  }

  /** Words under the answer, until the next answer. */
  set status(words) {
    this.#parts.status.textContent = words;
  }

  /**
   * Ask, in place of whatever is being answered here.
   * @returns {Promise<boolean>} whether the answer came to its end
   */
  async ask(body) {
    this.stop();
    const controller = (this.#controller = new AbortController());
    const { status, text, error } = this.#parts;
    const arrived = document.createTextNode("");
    text.replaceChildren(arrived);
    say(error, "");
    this.element.setAttribute("aria-busy", "true");
    status.textContent = "waiting";
    let ended = "";
    try {
      const started = performance.now();
      for await (const part of streamChat(body, controller.signal)) {
        if (part.text) {
          arrived.appendData(part.text);
          status.textContent = "writing";
        }
        if (part.finish) ended = ENDED[part.finish] ?? `, ${part.finish}`;
        if (part.usage) {
          const seconds = (performance.now() - started) / 1000;
          status.textContent = `${part.usage.completion_tokens} tokens in ${seconds.toFixed(1)} s${ended}`;
        }
      }
      return true;
    } catch (problem) {
      // Where a newer question has taken this place, the end of the old one is nobody's business.
      if (this.#controller !== controller) return false;
      status.textContent = problem.name === "AbortError" ? "stopped" : "";
      if (problem instanceof ApiError) say(error, problem.message);
      else if (problem.name !== "AbortError") throw problem;
      return false;
    } finally {
      if (this.#controller === controller) {
        this.#controller = null;
        this.element.setAttribute("aria-busy", "false");
      }
    }
  }

  /** Stop what is being answered. */
  stop() {
    this.#controller?.abort();
  }
}
