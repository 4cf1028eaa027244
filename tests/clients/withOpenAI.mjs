// npm's openai: chat completions.

import OpenAI from "openai";
import {
  BASE_URL,
  DATA_URL,
  KEY,
  MODEL,
  QUESTION,
  SECOND_QUESTION,
  SYSTEM,
  runChecks,
} from "./clientChecks.mjs";

const client = new OpenAI({ baseURL: BASE_URL, apiKey: KEY });
const system = { role: "system", content: SYSTEM };
const question = {
  role: "user",
  content: [
    { type: "text", text: QUESTION },
    { type: "image_url", image_url: { url: DATA_URL } },
  ],
};

async function ask(messages, options = {}) {
  const completion = await client.chat.completions.create({ model: MODEL, messages, ...options });
  return completion.choices[0].message;
}

await runChecks({
  text: async () => (await ask([{ role: "user", content: "Hello!" }])).content,
  picture: async () => (await ask([system, question])).content,
  stream: async () => {
    let text = "";
    const chunks = await client.chat.completions.create({
      model: MODEL,
      messages: [question],
      stream: true,
    });
    for await (const chunk of chunks) text += chunk.choices[0]?.delta.content ?? "";
    return text;
  },
  history: async () => {
    const stream = client.chat.completions.stream({
      model: MODEL,
      messages: [question],
      grounding: {},
    });
    const first = await stream.finalMessage();
    return (await ask([question, first, { role: "user", content: SECOND_QUESTION }])).content;
  },
  grounding: async () => {
    const message = await ask([question], { grounding: {} });
    return message.grounding.map((phrase) => phrase.text);
  },
});
