// The conversation: its turns, the requests for them, and the input below.

import { AnswerText } from "./answer_text.js";
import { fetchJson, ServerError, streamChat } from "./api_client.js";
import { announce, byId, createElement, showStatus } from "./dom.js";
import { preparePhrase } from "./phrases.js";
import {
  highlight, highlightedPhrase, notify, selectPhrase, showTurn, state, subscribe,
} from "./state.js";

const SUGGESTIONS = ["What is in the picture?", "What is in the background?"];
const MODE_TEXTS = {
  ask: { label: "Question", button: "Ask", hint: "Ask about the picture" },
  find: { label: "Phrase to find", button: "Find", hint: "Such as: the dog on the left" },
};

let model;
/** The AbortController of the request that is running, or null. */
let running = null;
/** Whether the model takes earlier turns; some models answer one question at a time. */
let takesConversation = true;

/** Fetch the name of the server's model once. */
export async function fetchModelName() {
  model ??= (await fetchJson("/v1/models")).data[0].id;
  return model;
}

/** Build OpenAI's messages: the earlier turns and this turn's question, the picture first. */
function buildMessages(turn, earlier) {
  const image = { type: "image_url", image_url: { url: state.picture.url } };
  const messages = [...earlier, turn].flatMap((each) => [
    { role: "user", content: each.question },
    { role: "assistant", content: each.text },
  ]);
  messages.pop();
  messages[0].content = [image, { type: "text", text: messages[0].content }];
  return messages;
}

/** Stream a turn's answer; retry with fewer earlier turns while the model refuses them. */
async function* streamAnswer(turn, signal) {
  let earlier = state.turns.filter(
    (other) => other !== turn && other.kind === "ask" && other.text && other.state !== "failed",
  );
  for (;;) {
    turn.messages = buildMessages(turn, takesConversation ? earlier : []);
    try {
      const body = { model: await fetchModelName(), messages: turn.messages, grounding: {} };
      yield* streamChat(body, signal);
      return;
    } catch (error) {
      const canBeShorter = turn.messages.length > 1;
      if (error.code === "no_conversation" && canBeShorter) takesConversation = false;
      else if (error.code === "context_length_exceeded" && canBeShorter) {
        earlier = earlier.slice(Math.ceil(earlier.length / 2));
        showStatus("The conversation is too long for the model; its beginning is left out.");
      } else throw error;
    }
  }
}

/** Segment the turn's phrase; yields once, in the form of `streamChat`. */
async function* streamSegments(turn, signal) {
  const reply = await fetchJson("/v1/segment", buildSegmentRequest(turn), signal);
  yield { text: reply.text, phrases: reply.phrases };
}

function buildSegmentRequest(turn) {
  return { image: state.picture.url, phrases: [turn.question] };
}

/** Fetch the turn's phrases with masks by another method; options: {refine} or {method}. */
export async function regenerateMasks(turn, options) {
  if (turn.kind === "find") {
    return (await fetchJson("/v1/segment", { ...buildSegmentRequest(turn), ...options })).phrases;
  }
  const body = { model: await fetchModelName(), messages: turn.messages, grounding: options };
  const reply = await fetchJson("/v1/chat/completions", body);
  return reply.choices[0].message.grounding;
}

/** Ask a question (kind "ask") or find a phrase ("find") in a new turn; streams the result. */
export async function startTurn(kind, question) {
  if (running !== null || state.picture === null) return;
  const turn = { kind, question, text: "", phrases: [], state: "running", messages: [] };
  addTurn(turn);
  running = new AbortController();
  const { signal } = running;
  setRunning(true);
  showStatus("");
  try {
    const parts = (kind === "ask" ? streamAnswer : streamSegments)(turn, signal);
    for await (const { text, phrases } of parts) {
      turn.text += text;
      if (text) turn.answerText.append(text);
      for (const phrase of phrases) addPhrase(turn, phrase);
      turn.node.scrollIntoView({ block: "nearest" });
    }
    finishTurn(turn, "done");
  } catch (error) {
    failTurn(turn, error);
  }
  // A new picture may have started another request meanwhile.
  if (signal === running?.signal) {
    running = null;
    setRunning(false);
  }
}

export function stopAnswer() {
  running?.abort();
}

function addTurn(turn) {
  turn.node = createElement("li", "turn running");
  turn.node.append(createElement("p", "question", turn.question));
  const paragraph = createElement("p", "answer");
  turn.answerText = new AnswerText(paragraph);
  turn.node.append(paragraph);
  turn.node.addEventListener("focusin", () => showTurn(turn));
  state.turns.push(turn);
  byId("log").append(turn.node);
  byId("suggestions").hidden = true;
  showTurn(turn);
  turn.node.scrollIntoView({ block: "nearest" });
}

/** Add a phrase of the server's reply to a turn, with its button in the answer. */
function addPhrase(turn, reply) {
  const phrase = preparePhrase(reply, turn.phrases.length);
  turn.phrases.push(phrase);
  const button = turn.answerText.addPhraseButton(phrase);
  button?.setAttribute("aria-pressed", "false");
  button?.addEventListener("pointerenter", () => {
    showTurn(turn);
    highlight(phrase);
  });
  button?.addEventListener("pointerleave", () => highlight(null));
  button?.addEventListener("focus", () => highlight(phrase));
  button?.addEventListener("blur", () => highlight(null));
  button?.addEventListener("click", () => selectPhrase(phrase));
  notify("turn");
}

/** End a turn that has an answer; outcome: "done" or "stopped". */
function finishTurn(turn, outcome) {
  turn.state = outcome;
  turn.node.classList.remove("running");
  const count = turn.phrases.length;
  if (outcome === "stopped") turn.node.append(createElement("p", "note", "Stopped."));
  else if (count === 0) {
    turn.node.append(createElement("p", "note", "Nothing in it could be found in the picture."));
  } else if (turn.kind === "find" && turn.phrases.every((phrase) => phrase.area === 0)) {
    turn.node.append(createElement("p", "note", "Not found in the picture."));
  }
  announce(`${turn.text} ${count} ${count === 1 ? "phrase is" : "phrases are"} marked.`);
  notify("turn");
}

/** End a turn after an error, or after a stop; a turn without any text is removed. */
function failTurn(turn, error) {
  if (!state.turns.includes(turn)) return;
  if (error.name === "AbortError" && turn.text) {
    finishTurn(turn, "stopped");
    return;
  }
  turn.state = "failed";
  turn.node.classList.remove("running");
  if (!turn.text) {
    // The question goes back into the input, so that the user can send it again.
    turn.node.remove();
    state.turns.splice(state.turns.indexOf(turn), 1);
    showTurn(state.turns.at(-1) ?? null);
    if (!byId("words").value) byId("words").value = turn.question;
    byId("suggestions").hidden = state.turns.length > 0;
  }
  notify("turn");
  if (error.name === "AbortError") showStatus("Stopped.");
  else showStatus(formatError(error), true);
}

/** Format an error as a sentence for the user; log those that are not the server's. */
export function formatError(error) {
  if (!(error instanceof ServerError)) {
    console.error(error);
    return `The page failed: ${error.message}`;
  }
  if (error.code === "busy") {
    const seconds = error.retryAfter ?? 1;
    const wait = `${seconds} ${seconds === 1 ? "second" : "seconds"}`;
    return `The server is busy. Try again in ${wait}.`;
  }
  const text = error.message;
  return text[0].toUpperCase() + text.slice(1) + (/[.?!]$/.test(text) ? "" : ".");
}

/** Swap the send and stop buttons; a hidden stop button hands its focus to the input. */
function setRunning(isRunning) {
  const focused = document.activeElement;
  byId("send").hidden = isRunning;
  byId("stop").hidden = !isRunning;
  if (focused === byId("stop")) byId("words").focus();
}

function updateModeTexts() {
  const { label, button, hint } = MODE_TEXTS[currentMode()];
  byId("words-label").textContent = label;
  byId("words").placeholder = hint;
  byId("send").textContent = button;
}

/** Return "ask" or "find". */
function currentMode() {
  return byId("composer").elements.mode.value;
}

function submit(event) {
  event.preventDefault();
  const text = byId("words").value.trim();
  if (!text || running !== null) return;
  byId("words").value = "";
  startTurn(currentMode(), text);
}

export function setUpConversation() {
  byId("composer").addEventListener("submit", submit);
  byId("composer").addEventListener("change", updateModeTexts);
  byId("stop").addEventListener("click", stopAnswer);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") stopAnswer();
  });
  for (const text of SUGGESTIONS) {
    const button = createElement("button", "", text);
    button.type = "button";
    button.addEventListener("click", () => {
      byId("words").focus();
      startTurn("ask", text);
    });
    byId("suggestions").append(button);
  }
  updateModeTexts();
  subscribe(["picture"], () => {
    stopAnswer();
    running = null;
    setRunning(false);
    byId("log").replaceChildren();
    byId("talk").hidden = state.picture === null;
    byId("suggestions").hidden = false;
    showStatus("");
  });
  subscribe(["shownTurn"], () => {
    for (const turn of state.turns) turn.node.classList.toggle("shown", turn === state.shownTurn);
  });
  subscribe(["highlighted"], () => {
    const highlighted = highlightedPhrase();
    for (const turn of state.turns) {
      for (const [phrase, button] of turn.answerText.buttons) {
        button.classList.toggle("lifted", phrase === highlighted);
        button.setAttribute("aria-pressed", phrase === state.selected);
      }
    }
  });
}
