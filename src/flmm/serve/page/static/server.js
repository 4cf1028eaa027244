// Talks to the server that this page came from, and to nobody else.

const KEY = "flmm-key";

export class ServerError extends Error {
  constructor(message, code = null, seconds = null) {
    super(message);
    this.code = code;
    this.seconds = seconds;
  }
}

let askForKey = async () => null;

/** Sets who is asked when the server wants a key: async (wasWrong) => key, or null. */
export function setKeyAsker(asker) {
  askForKey = asker;
}

async function send(path, body, signal) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = key === null ? {} : { authorization: `Bearer ${key}` };
    if (body !== undefined) headers["content-type"] = "application/json";
    const response = await reach(path, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: JSON.stringify(body),
      signal,
    });
    if (response.ok) return response;
    if (response.status !== 401) throw await refusal(response);
    const given = await askForKey(key !== null);
    if (given === null) throw new ServerError("The server wants an API key.", "no_key");
    sessionStorage.setItem(KEY, given);
  }
}

async function reach(path, request) {
  try {
    return await fetch(path, request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server cannot be reached. Is it still running?", "unreachable");
  }
}

async function refusal(response) {
  let error = {};
  try {
    error = (await response.json()).error;
  } catch {
    error.message = `The server answered with status ${response.status}.`;
  }
  const seconds = Number(response.headers.get("retry-after")) || null;
  return new ServerError(error.message, error.code, seconds);
}

/** The answer to a request, as JSON. */
export async function fetchJson(path, body, signal) {
  return (await send(path, body, signal)).json();
}

/** An answer while it is said: yields {text} and {phrases}. */
export async function* streamChat(body, signal) {
  const response = await send("/v1/chat/completions", { ...body, stream: true }, signal);
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(chunk.error.message, chunk.error.code);
    const delta = chunk.choices[0]?.delta ?? {};
    if (delta.content) yield { text: delta.content, phrases: [] };
    if (delta.grounding) yield { text: "", phrases: delta.grounding };
  }
  throw new ServerError("The connection ended before the answer did. Ask again.", "cut");
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { done, value } = await nextPiece(reader);
    if (done) return;
    const lines = (waiting + value).split("\n");
    waiting = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ")) yield line.slice("data: ".length);
    }
  }
}

async function nextPiece(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The connection broke. Ask again.", "cut");
  }
}
