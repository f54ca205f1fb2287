// What is asked: the prompt and how it is to be answered.

import { byId } from "./dom.js";

/** What the form holds is not a question; the message says why. */
export class QuestionError extends Error {}

/**
 * The body of a chat request, without its strength.
 * @throws {QuestionError} naming the field that is wrong; it gets the focus
 */
export function readQuestion() {
  const prompt = byId("prompt");
  if (!prompt.value.trim()) fail(prompt, "The prompt is empty.");
  for (const [id, name] of [["max-tokens", "Max tokens"], ["temperature", "Temperature"], ["seed", "Seed"]]) {
    const input = byId(id);
    if (!input.checkValidity()) fail(input, `${name}: ${input.validationMessage}`);
  }
  const system = byId("system").value;
  const messages = system.trim() ? [{ role: "system", content: system }] : [];
  messages.push({ role: "user", content: prompt.value });
  const seed = byId("seed").value;
  return {
    model: byId("model").value,
    messages,
    max_tokens: byId("max-tokens").valueAsNumber,
    temperature: byId("temperature").valueAsNumber,
    ...(seed === "" ? {} : { seed: Number(seed) }),
  };
}

function fail(input, message) {
  const folded = input.closest("details");
  if (folded) folded.open = true;
  input.focus();
  throw new QuestionError(message);
}
