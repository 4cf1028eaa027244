// Questions and phrases, what came of them, and how they are sent.

import { AnswerText } from "./answer.js";
import { announce, byId, element, report } from "./elements.js";
import { preparedPhrase } from "./phrases.js";
import { fetchJson, ServerError, streamChat } from "./server.js";
import { choose, forward, lift, listen, show, state, tell } from "./state.js";

const SUGGESTIONS = ["What is in the picture?", "What is in the background?"];
const WORDING = {
  ask: { label: "Question", button: "Ask", hint: "Ask about the picture" },
  find: { label: "Phrase to find", button: "Find", hint: "Such as: the dog on the left" },
};

let model;
let running = null;
/** Whether the model takes what was said before; some answer one question at a time. */
let converses = true;

/** The name of the one model that the server has. */
export async function modelName() {
  model ??= (await fetchJson("/v1/models")).data[0].id;
  byId("model").textContent = model;
  return model;
}

/** What a turn's question is, with what was said before it, as OpenAI's messages. */
function messagesOf(turn, earlier) {
  const image = { type: "image_url", image_url: { url: state.picture.url } };
  const messages = [...earlier, turn].flatMap((one) => [
    { role: "user", content: one.question },
    { role: "assistant", content: one.text },
  ]);
  messages.pop();
  messages[0].content = [image, { type: "text", text: messages[0].content }];
  return messages;
}

/** The same request, as often as it has to be made shorter for the model. */
async function* answered(turn, signal) {
  let earlier = state.turns.filter(
    (one) => one !== turn && one.kind === "ask" && one.text && one.state !== "failed",
  );
  for (;;) {
    turn.messages = messagesOf(turn, converses ? earlier : []);
    try {
      const body = { model: await modelName(), messages: turn.messages, grounding: {} };
      yield* streamChat(body, signal);
      return;
    } catch (error) {
      const isShorter = turn.messages.length > 1;
      if (error.code === "no_conversation" && isShorter) converses = false;
      else if (error.code === "context_length_exceeded" && isShorter) {
        earlier = earlier.slice(Math.ceil(earlier.length / 2));
        report("The conversation is too long for the model; its beginning is left out.");
      } else throw error;
    }
  }
}

async function* found(turn, signal) {
  const reply = await fetchJson("/v1/segment", segmentRequest(turn), signal);
  yield { text: reply.text, phrases: reply.phrases };
}

function segmentRequest(turn) {
  return { image: state.picture.url, phrases: [turn.question] };
}

/** The turn's masks, made another way: wish is {refine} or {method}. */
export async function remade(turn, wish) {
  if (turn.kind === "find") {
    return (await fetchJson("/v1/segment", { ...segmentRequest(turn), ...wish })).phrases;
  }
  const body = { model: await modelName(), messages: turn.messages, grounding: wish };
  const reply = await fetchJson("/v1/chat/completions", body);
  return reply.choices[0].message.grounding;
}

/** Asks a question, or finds a phrase, and shows what comes. */
export async function begin(kind, question) {
  if (running !== null || state.picture === null) return;
  const turn = { kind, question, text: "", phrases: [], state: "running", messages: [] };
  addTurn(turn);
  running = new AbortController();
  const { signal } = running;
  setRunning(true);
  report("");
  try {
    for await (const { text, phrases } of (kind === "ask" ? answered : found)(turn, signal)) {
      turn.text += text;
      if (text) turn.answer.append(text);
      for (const phrase of phrases) addPhrase(turn, phrase);
      turn.node.scrollIntoView({ block: "nearest" });
    }
    finish(turn, "done");
  } catch (error) {
    fail(turn, error);
  }
  if (signal === running?.signal) {
    running = null;
    setRunning(false);
  }
}

export function stop() {
  running?.abort();
}

function addTurn(turn) {
  turn.node = element("li", "turn running");
  turn.node.append(element("p", "question", turn.question));
  const said = element("p", "answer");
  turn.answer = new AnswerText(said);
  turn.node.append(said);
  turn.node.addEventListener("focusin", () => show(turn));
  state.turns.push(turn);
  byId("log").append(turn.node);
  byId("suggestions").hidden = true;
  show(turn);
  turn.node.scrollIntoView({ block: "nearest" });
}

function addPhrase(turn, told) {
  const phrase = preparedPhrase(told, turn.phrases.length);
  turn.phrases.push(phrase);
  const button = turn.answer.mark(phrase);
  button?.setAttribute("aria-pressed", "false");
  button?.addEventListener("pointerenter", () => {
    show(turn);
    lift(phrase);
  });
  button?.addEventListener("pointerleave", () => lift(null));
  button?.addEventListener("focus", () => lift(phrase));
  button?.addEventListener("blur", () => lift(null));
  button?.addEventListener("click", () => choose(phrase));
  tell("turn");
}

function finish(turn, how) {
  turn.state = how;
  turn.node.classList.remove("running");
  const count = turn.phrases.length;
  if (how === "stopped") turn.node.append(element("p", "note", "Stopped."));
  else if (count === 0) {
    turn.node.append(element("p", "note", "Nothing in it could be found in the picture."));
  } else if (turn.kind === "find" && turn.phrases.every((phrase) => phrase.area === 0)) {
    turn.node.append(element("p", "note", "Not found in the picture."));
  }
  announce(`${turn.text} ${count} ${count === 1 ? "phrase is" : "phrases are"} marked.`);
  tell("turn");
}

function fail(turn, error) {
  if (!state.turns.includes(turn)) return;
  if (error.name === "AbortError" && turn.text) {
    finish(turn, "stopped");
    return;
  }
  turn.state = "failed";
  turn.node.classList.remove("running");
  if (!turn.text) {
    // What was not answered goes back to where it can be sent again.
    turn.node.remove();
    state.turns.splice(state.turns.indexOf(turn), 1);
    show(state.turns.at(-1) ?? null);
    if (!byId("words").value) byId("words").value = turn.question;
    byId("suggestions").hidden = state.turns.length > 0;
  }
  tell("turn");
  if (error.name === "AbortError") report("Stopped.");
  else report(explained(error), true);
}

/** What went wrong, for people. */
export function explained(error) {
  if (!(error instanceof ServerError)) {
    console.error(error);
    return `The page failed: ${error.message}`;
  }
  if (error.code === "busy") {
    const seconds = error.seconds ?? 1;
    const wait = `${seconds} ${seconds === 1 ? "second" : "seconds"}`;
    return `The server is busy. Try again in ${wait}.`;
  }
  const text = error.message;
  return text[0].toUpperCase() + text.slice(1) + (/[.?!]$/.test(text) ? "" : ".");
}

function setRunning(isRunning) {
  const hadFocus = document.activeElement;
  byId("send").hidden = isRunning;
  byId("stop").hidden = !isRunning;
  if (hadFocus === byId("stop")) byId("words").focus();
}

function setMode() {
  const { label, button, hint } = WORDING[mode()];
  byId("words-label").textContent = label;
  byId("words").placeholder = hint;
  byId("send").textContent = button;
}

function mode() {
  return byId("composer").elements.mode.value;
}

function submit(event) {
  event.preventDefault();
  const words = byId("words").value.trim();
  if (!words || running !== null) return;
  byId("words").value = "";
  begin(mode(), words);
}

export function setUpConversation() {
  byId("composer").addEventListener("submit", submit);
  byId("composer").addEventListener("change", setMode);
  byId("stop").addEventListener("click", stop);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") stop();
  });
  for (const text of SUGGESTIONS) {
    const button = element("button", "", text);
    button.type = "button";
    button.addEventListener("click", () => {
      byId("words").focus();
      begin("ask", text);
    });
    byId("suggestions").append(button);
  }
  setMode();
  listen(["picture"], () => {
    stop();
    running = null;
    setRunning(false);
    byId("log").replaceChildren();
    byId("talk").hidden = state.picture === null;
    byId("suggestions").hidden = false;
    report("");
  });
  listen(["shown"], () => {
    for (const turn of state.turns) turn.node.classList.toggle("shown", turn === state.shown);
  });
  listen(["lifted"], () => {
    const phrase = forward();
    for (const turn of state.turns) {
      for (const [one, button] of turn.answer.buttons) {
        button.classList.toggle("lifted", one === phrase);
        button.setAttribute("aria-pressed", one === state.chosen);
      }
    }
  });
}
