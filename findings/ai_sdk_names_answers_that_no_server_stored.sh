#!/usr/bin/env bash
# ai 6.0.326 with @ai-sdk/openai 3.0.141: a second question does not have the first answer in it, with
# servers that say that they store nothing.
#
# Guess before looking: the provider sends the whole conversation to /v1/responses, as it does to
# /v1/chat/completions; at most it names stored answers where the server's response says "store": true.
# Seen: it leaves "store" out of the request, takes it for true, and whatever the response says, sends
# {"type": "item_reference", "id": …} in the place of every answer that came with an id. A server that
# keeps nothing cannot know what was said. With providerOptions.openai.store = false, and with
# provider.chat(…), the text is sent.
# Fails when that changes. Needs Node.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund ai@6.0.326 @ai-sdk/openai@3.0.141
cat > check.mjs <<'NODE'
import assert from "node:assert";
import { createServer } from "node:http";
import { createOpenAI } from "@ai-sdk/openai";
import { generateText } from "ai";

const bodies = [];
const response = {
  id: "resp_1",
  object: "response",
  created_at: 1,
  model: "any",
  status: "completed",
  store: false,
  output: [
    {
      type: "message",
      id: "msg_1",
      role: "assistant",
      status: "completed",
      content: [{ type: "output_text", text: "A cat.", annotations: [] }],
    },
  ],
  usage: { input_tokens: 1, output_tokens: 1 },
};
const server = createServer((request, reply) => {
  let text = "";
  request.on("data", (part) => (text += part));
  request.on("end", () => {
    bodies.push(JSON.parse(text));
    reply.setHeader("content-type", "application/json");
    reply.end(JSON.stringify(response));
  });
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const baseURL = `http://127.0.0.1:${server.address().port}/v1`;
const model = createOpenAI({ baseURL, apiKey: "any" })("any");

async function askTwice(providerOptions) {
  const question = { role: "user", content: "What is it?" };
  const first = await generateText({ model, messages: [question], providerOptions });
  assert.equal(first.text, "A cat.");
  const messages = [question, ...first.response.messages, { role: "user", content: "Where?" }];
  await generateText({ model, messages, providerOptions });
  const answer = bodies.at(-1).input[1];
  console.log(JSON.stringify(answer));
  return answer;
}

assert.deepEqual(await askTwice({}), { type: "item_reference", id: "msg_1" });
assert.ok(!("store" in bodies[0]));
assert.equal((await askTwice({ openai: { store: false } })).content[0].text, "A cat.");
server.close();
NODE
node check.mjs
