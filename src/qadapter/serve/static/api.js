// The server's API: JSON, streamed answers, and errors as it words them.

const KEY = "qadapter-api-key";
const CUT = "The connection ended before the answer did.";

/** Tells with an event "unauthorized" that the server wants a key, or another one. */
export const gate = new EventTarget();

/** Remember the key for this tab. */
export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

/** An answer of the API that is an error, in its own words. */
export class ApiError extends Error {}

async function request(path, options) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key === null ? {} : { Authorization: `Bearer ${key}` }) };
  const response = await unlessLost(fetch(path, { ...options, headers }), "The server cannot be reached.");
  if (response.ok) return response;
  if (response.status === 401) gate.dispatchEvent(new Event("unauthorized"));
  const body = await response.json().catch(() => null);
  const wait = response.headers.get("Retry-After");
  const said = body?.error?.message ?? response.statusText;
  throw new ApiError(`${response.status}: ${said}${wait ? ` Try again in ${wait} s.` : ""}`);
}

/** What a promise of the network gives; a failure that is not an abort becomes an error with these words. */
async function unlessLost(promise, words) {
  try {
    return await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(words);
  }
}

function post(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return request(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

/** GET a JSON body. */
export async function getJson(path, signal) {
  return unlessLost((await request(path, { signal })).json(), CUT);
}

/** POST a JSON body and read one. */
export async function postJson(path, body, signal) {
  return unlessLost((await post(path, body, signal)).json(), CUT);
}

/**
 * Ask for a streamed chat answer.
 * @yields {{text: string, finish: ?string, usage: ?object}} what has come since the last one
 */
export async function* streamChat(body, signal) {
  const asked = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await post("v1/chat/completions", asked, signal);
  for await (const data of serverSentEvents(response.body)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new ApiError(event.error.message);
    const choice = event.choices[0];
    yield { text: choice?.delta.content ?? "", finish: choice?.finish_reason ?? null, usage: event.usage ?? null };
  }
  throw new ApiError(CUT);
}

/** The data of each event of a stream; an event ends with an empty line. */
async function* serverSentEvents(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  try {
    for (;;) {
      const { done, value } = await unlessLost(reader.read(), CUT);
      if (done) return;
      buffer += value;
      const events = buffer.split("\n\n");
      buffer = events.pop();
      for (const event of events) if (event.startsWith("data: ")) yield event.slice("data: ".length);
    }
  } finally {
    // Whoever stops listening also stops the server. After an abort the stream is broken already.
    reader.cancel().catch(() => {});
  }
}
