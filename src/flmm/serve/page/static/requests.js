// The requests for a turn's text, phrases and masks.

import { fetchJson, streamChat } from "./api_client.js";
import { showStatus } from "./dom.js";
import { state } from "./state.js";
import { text } from "./texts.js";

let model;
/** Whether the model takes earlier turns; some models answer one question at a time. */
let takesConversation = true;
/** "all", or "referred": the turn before, and only if the question refers to it. */
let earlierTurns = "all";

/** Words that mean something of the answer before. */
const REFERENCE = /\b(it|its|they|them|their)\b/i;

/** Set which earlier turns a question is sent with, as the reply to /page/about says. */
export function setEarlierTurns(policy) {
  earlierTurns = policy;
}

/** Fetch the name of the server's model once. */
export async function fetchModelName() {
  model ??= (await fetchJson("/v1/models")).data[0].id;
  return model;
}

/** List the [question, answer] pairs that the model is to know of with a question. */
function listEarlier(turn) {
  const index = state.turns.indexOf(turn);
  const isAnswered = (other) => other.kind === "ask" && other.text && other.state === "done";
  const earlier = state.turns.slice(0, index).filter(isAnswered);
  const pairs = earlier.map((other) => [other.question, other.text]);
  if (!takesConversation) return [];
  if (earlierTurns === "all") return pairs;
  return REFERENCE.test(turn.question) ? pairs.slice(-1) : [];
}

/** Build OpenAI's messages: the earlier turns and this turn's question, the pictures first. */
function buildMessages(turn) {
  const messages = [...turn.earlier, [turn.question, ""]].flatMap(([question, answer]) => [
    { role: "user", content: question },
    { role: "assistant", content: answer },
  ]);
  messages.pop();
  const images = state.pictures.map(({ url }) => ({ type: "image_url", image_url: { url } }));
  messages[0].content = [...images, { type: "text", text: messages[0].content }];
  return messages;
}

/**
 * Stream a turn: yields {text, phrases} as they come.
 *
 * Of an answer, retry with fewer earlier turns while the model refuses them.
 */
export async function* streamTurn(turn, signal) {
  if (turn.kind !== "ask") {
    const path = turn.kind === "find" ? "/v1/segment" : "/v1/ground";
    const reply = await fetchJson(path, buildMaskRequest(turn), signal);
    yield { text: reply.text, phrases: reply.phrases.map((phrase) => ownPicture(turn, phrase)) };
    return;
  }
  turn.earlier = listEarlier(turn);
  for (;;) {
    try {
      const messages = buildMessages(turn);
      yield* streamChat({ model: await fetchModelName(), messages, grounding: {} }, signal);
      return;
    } catch (error) {
      if (turn.earlier.length === 0) throw error;
      if (error.code === "no_conversation") {
        takesConversation = false;
        turn.earlier = [];
      } else if (error.code === "context_length_exceeded") {
        turn.earlier = turn.earlier.slice(Math.ceil(turn.earlier.length / 2));
        showStatus(text("shortened"));
      } else throw error;
    }
  }
}

/** These routes take one picture: the one that was shown when the turn began. */
function ownPicture(turn, phrase) {
  return { ...phrase, picture: turn.picture };
}

function buildMaskRequest(turn) {
  const image = state.pictures[turn.picture].url;
  if (turn.kind === "mark") return { image, text: turn.question };
  const phrases = turn.question.split(/[,;，、]/).map((part) => part.trim());
  return { image, phrases: phrases.filter(Boolean) };
}

/** Fetch the turn's phrases with masks by another method; options: {refine} or {method}. */
export async function regenerateMasks(turn, options) {
  if (turn.kind !== "ask") {
    const path = turn.kind === "find" ? "/v1/segment" : "/v1/ground";
    const grounding = turn.kind === "find" ? options : { grounding: options };
    const { phrases } = await fetchJson(path, { ...buildMaskRequest(turn), ...grounding });
    return phrases.map((phrase) => ownPicture(turn, phrase));
  }
  const body = { model: await fetchModelName(), messages: buildMessages(turn), grounding: options };
  const reply = await fetchJson("/v1/chat/completions", body);
  return reply.choices[0].message.grounding;
}

/** Fetch the phrases of the words that a stopped answer has, but for a last one that may be cut. */
export async function fetchPhrasesSoFar(turn) {
  const said = turn.text.replace(/[\p{L}\p{N}]+$/u, "");
  if (!said.trim() || state.pictures.length > 1) return [];
  const body = { image: state.pictures[0].url, question: turn.question, text: said };
  const { phrases } = await fetchJson("/v1/ground", body);
  return phrases.filter(({ start, end }) =>
    turn.phrases.every((other) => end <= other.start || other.end <= start),
  );
}
