// The conversation: its turns, from the question to the last phrase.

import { announce, byId, showStatus } from "./dom.js";
import { formatError } from "./errors.js";
import { preparePhrase } from "./phrases.js";
import { fetchPhrasesSoFar, streamTurn } from "./requests.js";
import { notify, showPicture, showTurn, state, subscribe } from "./state.js";
import { text } from "./texts.js";
import { renderPhrase, renderState, renderTurn } from "./turn_view.js";

/** The AbortController of the request that is running, or null. */
let running = null;

export function isRunning() {
  return running !== null;
}

/**
 * Begin a turn and stream its result.
 *
 * kind: "ask" a question, "find" phrases, or "mark" the phrases of a text.
 */
export async function startTurn(kind, question) {
  if (running !== null || state.picture === null) return;
  const picture = state.pictures.indexOf(state.picture);
  const turn = {
    kind, question, picture, text: "", phrases: [], state: "running", earlier: [], problem: "",
  };
  state.turns.push(turn);
  renderTurn(turn, retryTurn);
  showTurn(turn);
  turn.node.scrollIntoView({ block: "nearest" });
  running = new AbortController();
  const { signal } = running;
  setRunning(true);
  showStatus("");
  try {
    for await (const { text, phrases } of streamTurn(turn, signal)) {
      turn.text += text;
      if (text) turn.answerText.append(text);
      for (const phrase of phrases) addPhrase(turn, phrase);
      turn.node.scrollIntoView({ block: "nearest" });
    }
    endTurn(turn, "done");
  } catch (error) {
    failTurn(turn, error);
  }
  // Another conversation may have begun another request meanwhile.
  if (signal === running?.signal) {
    running = null;
    setRunning(false);
  }
}

export function stopAnswer() {
  running?.abort();
}

/** Ask a broken turn's question once more, of the picture that was shown, in a turn instead of it. */
function retryTurn(turn) {
  if (running !== null) return;
  removeTurn(turn);
  showPicture(state.pictures[turn.picture]);
  byId("words").focus({ preventScroll: true });
  startTurn(turn.kind, turn.question);
}

function removeTurn(turn) {
  turn.node.remove();
  state.turns.splice(state.turns.indexOf(turn), 1);
}

function addPhrase(turn, reply) {
  const found = turn.phrases.filter((phrase) => phrase.number !== null).length;
  const phrase = preparePhrase(reply, found, state.pictures[reply.picture]);
  turn.phrases.push(phrase);
  renderPhrase(turn, phrase);
  notify("turn");
}

/** End a turn that has an answer, or the beginning of one. */
function endTurn(turn, outcome) {
  turn.state = outcome;
  renderState(turn);
  const count = turn.phrases.filter((phrase) => phrase.number !== null).length;
  const counted = count === 1 ? text("onePhrase") : text("phrasesAre", { count });
  announce(`${text("marked", { text: turn.text, count: counted })} ${turn.notes.textContent}`);
  notify("turn");
}

/** End a turn after an error or a stop; without any text it is removed. */
function failTurn(turn, error) {
  if (!state.turns.includes(turn)) return;
  const isStopped = error.name === "AbortError";
  if (!turn.text) {
    removeTurn(turn);
    showTurn(state.turns.at(-1) ?? null);
    // The question goes back into the input, so that the user can send it again.
    if (!byId("words").value) byId("words").value = turn.question;
    notify("turn");
    if (isStopped) showStatus(text("stopped"));
    else showStatus(formatError(error), true);
    return;
  }
  if (!isStopped && error.code !== "cut") {
    turn.problem = text("failed", { reason: formatError(error) });
  }
  endTurn(turn, isStopped ? "stopped" : "broken");
  if (isStopped) completePhrases(turn);
}

/** Add the phrases of the words that were said before a stop. */
async function completePhrases(turn) {
  let phrases = [];
  try {
    phrases = await fetchPhrasesSoFar(turn);
  } catch (error) {
    showStatus(formatError(error), true);
  }
  if (!state.turns.includes(turn)) return;
  for (const phrase of phrases) addPhrase(turn, phrase);
}

/** Swap the send and stop buttons; a hidden stop button hands its focus to the input. */
function setRunning(isRunning) {
  const focused = document.activeElement;
  byId("send").hidden = isRunning;
  byId("stop").hidden = !isRunning;
  if (focused === byId("stop")) byId("words").focus();
}

/** Show all turns of the conversation that was begun or come back to. */
function showConversation() {
  stopAnswer();
  running = null;
  setRunning(false);
  byId("log").replaceChildren();
  byId("talk").hidden = state.picture === null;
  showStatus("");
  for (const turn of state.turns) {
    // Its request was stopped when the conversation was left.
    if (turn.state === "running") turn.state = "broken";
    renderTurn(turn, retryTurn);
  }
  showTurn(state.turns.at(-1) ?? null);
}

export function setUpConversation() {
  byId("stop").addEventListener("click", stopAnswer);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") stopAnswer();
  });
  subscribe(["conversation"], showConversation);
}
