// Requests to the server that this page came from.

import { text } from "./texts.js";

/** The API key's name in sessionStorage. */
const KEY_NAME = "flmm-key";

/** A refusal or a lost connection. retryAfter: seconds, if the server says when to come again. */
export class ServerError extends Error {
  constructor(message, code = null, retryAfter = null) {
    super(message);
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

let promptForKey = async () => null;

/** Set the function that asks the user for a key: async (wasRejected) => key, or null. */
export function setKeyPrompt(prompt) {
  promptForKey = prompt;
}

/** Send a request, POST if it has a body; ask for the key until the server accepts it. */
async function send(path, body, signal) {
  for (;;) {
    const key = sessionStorage.getItem(KEY_NAME);
    const headers = key === null ? {} : { authorization: `Bearer ${key}` };
    if (body !== undefined) headers["content-type"] = "application/json";
    const response = await fetchResponse(path, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: JSON.stringify(body),
      signal,
    });
    if (response.ok) return response;
    if (response.status !== 401) throw await readError(response);
    const newKey = await promptForKey(key !== null);
    if (newKey === null) throw new ServerError(text("noKey"), "no_key");
    sessionStorage.setItem(KEY_NAME, newKey);
  }
}

async function fetchResponse(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(text("unreachable"), "unreachable");
  }
}

/** Read a refusal's error; a proxy's response may be other than JSON. */
async function readError(response) {
  let error = {};
  try {
    error = (await response.json()).error;
  } catch {
    error.message = text("statusCode", { status: response.status });
  }
  const retryAfter = Number(response.headers.get("retry-after")) || null;
  return new ServerError(error.message, error.code, retryAfter);
}

/** Send a request and return the reply's JSON. */
export async function fetchJson(path, body, signal) {
  return (await send(path, body, signal)).json();
}

/** Stream a chat completion: yields {text, phrases} for each delta. */
export async function* streamChat(body, signal) {
  const response = await send("/v1/chat/completions", { ...body, stream: true }, signal);
  for await (const data of readEvents(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(chunk.error.message, chunk.error.code);
    const delta = chunk.choices[0]?.delta ?? {};
    if (delta.content) yield { text: delta.content, phrases: [] };
    if (delta.grounding) yield { text: "", phrases: delta.grounding };
  }
  throw new ServerError(text("brokenOff"), "cut");
}

/** Read server-sent events; yields each one's data. */
async function* readEvents(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { done, value } = await readChunk(reader);
    if (done) return;
    const lines = (buffer + value).split("\n");
    buffer = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ")) yield line.slice("data: ".length);
    }
  }
}

async function readChunk(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(text("brokenOff"), "cut");
  }
}
