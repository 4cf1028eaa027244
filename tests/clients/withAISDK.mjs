// npm's ai with @ai-sdk/openai: its default interface (responses), and chat completions.

import { createOpenAI } from "@ai-sdk/openai";
import { generateText, jsonSchema, streamText, tool } from "ai";
import {
  BASE_URL,
  KEY,
  MODEL,
  PICTURE,
  QUESTION,
  SECOND_QUESTION,
  SYSTEM,
  runChecks,
} from "./clientChecks.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;

// Fields that the SDK does not know are added to the request, and read from the answer, here.
let added = {};
let answered;
async function fetchWithGrounding(url, options) {
  const body = JSON.stringify({ ...JSON.parse(options.body), ...added });
  const response = await fetch(url, { ...options, body });
  if (added.grounding) answered = await response.clone().json();
  return response;
}

const provider = createOpenAI({ baseURL: BASE_URL, apiKey: KEY, fetch: fetchWithGrounding });
const question = {
  role: "user",
  content: [
    { type: "text", text: QUESTION },
    { type: "image", image: PICTURE, mediaType: "image/png" },
  ],
};
const add = tool({
  description: "Add two numbers.",
  inputSchema: jsonSchema({ type: "object", properties: { first: { type: "number" } } }),
  execute: async () => 0,
});
// The server keeps nothing, so earlier answers must be sent, not named.
const providerOptions = { openai: { store: false } };

/** Returns what both interfaces answer, which is the same. */
async function askBoth(ask) {
  const texts = [await ask(provider(MODEL)), await ask(provider.chat(MODEL))];
  if (texts[0] !== texts[1]) throw new Error(`the interfaces differ: ${texts}`);
  return texts[0];
}

await runChecks({
  text: () => askBoth(async (model) => (await generateText({ model, prompt: "Hello!" })).text),
  picture: () =>
    askBoth(async (model) => {
      const tools = { add };
      return (await generateText({ model, system: SYSTEM, messages: [question], tools })).text;
    }),
  stream: () =>
    askBoth(async (model) => {
      let text = "";
      for await (const part of streamText({ model, messages: [question] }).textStream) text += part;
      return text;
    }),
  history: () =>
    askBoth(async (model) => {
      const first = await generateText({ model, messages: [question], providerOptions });
      const second = { role: "user", content: SECOND_QUESTION };
      const messages = [question, ...first.response.messages, second];
      return (await generateText({ model, messages, providerOptions })).text;
    }),
  grounding: async () => {
    added = { grounding: {} };
    await generateText({ model: provider(MODEL), messages: [question] });
    return answered.output[0].grounding.map((phrase) => phrase.text);
  },
});
