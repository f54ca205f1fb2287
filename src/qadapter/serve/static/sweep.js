// The same prompt at a list of strengths, one answer under the other.

import { Answer } from "./answer.js";
import { byId } from "./dom.js";
import { QuestionError } from "./question.js";

// Answers that are asked for at the same time. Browsers hold few connections to one server.
const AT_ONCE = 4;

export class Sweep {
  #answers = [];
  #waiting = [];

  /**
   * Answer a question at every strength of the list.
   * @throws {QuestionError} where the list holds something else than strengths
   */
  async ask(question) {
    const strengths = readStrengths();
    this.stop();
    const answers = strengths.map((strength) => {
      const answer = new Answer(`Strength ${strength}`);
      answer.status = "waiting";
      return answer;
    });
    this.#answers = answers;
    byId("sweep-answers").replaceChildren(...answers.map((answer) => answer.element));
    const waiting = (this.#waiting = answers.map((answer, i) => [answer, strengths[i]]));
    const ended = new Set();
    const work = async () => {
      for (let next = waiting.shift(); next; next = waiting.shift()) {
        const [answer, strength] = next;
        if (await answer.ask({ ...question, strength })) ended.add(answer);
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    answers.forEach((answer, i) => {
      const before = answers[i - 1];
      if (ended.has(answer) && ended.has(before) && answer.text === before.text) {
        answer.badge = `same as at ${strengths[i - 1]}`;
      }
    });
  }

  stop() {
    for (const [answer] of this.#waiting.splice(0)) answer.status = "not asked";
    for (const answer of this.#answers) answer.stop();
  }
}

function readStrengths() {
  const words = byId("strengths").value.split(/[\s,;]+/).filter(Boolean);
  if (!words.length) throw new QuestionError("Strengths: give at least one.");
  return words.map((word) => {
    const strength = Number(word);
    if (!Number.isFinite(strength) || strength < 0) {
      throw new QuestionError(`Strengths: must be numbers that are not negative, got “${word}”.`);
    }
    return strength;
  });
}
