// A turn's place in the conversation: question, answer with its phrases, notes.

import { AnswerText } from "./answer_text.js";
import { byId, createElement } from "./dom.js";
import { listNames } from "./phrases.js";
import { highlight, highlightedPhrase, selectPhrase, showTurn, state, subscribe } from "./state.js";
import { text } from "./texts.js";

/** Build a turn's element with all that the turn has; onRetry: called to ask again. */
export function renderTurn(turn, onRetry) {
  turn.node = createElement("li", `turn ${turn.kind}`);
  const question = createElement("p", "question", turn.question);
  if (turn.kind !== "ask") question.prepend(createElement("span", "kind", text(turn.kind)), " ");
  const paragraph = createElement("p", "answer");
  turn.answerText = new AnswerText(paragraph);
  turn.notes = createElement("div", "notes");
  turn.onRetry = onRetry;
  turn.node.append(question, paragraph, turn.notes);
  turn.node.addEventListener("focusin", () => showTurn(turn));
  if (turn.text) turn.answerText.append(turn.text);
  for (const phrase of turn.phrases) renderPhrase(turn, phrase);
  byId("log").append(turn.node);
  renderState(turn);
}

/** Turn a phrase's words into a button. */
export function renderPhrase(turn, phrase) {
  const button = turn.answerText.addPhraseButton(phrase);
  if (button === null) return;
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("pointerenter", () => {
    showTurn(turn);
    highlight(phrase);
  });
  button.addEventListener("pointerleave", () => highlight(null));
  button.addEventListener("focus", () => highlight(phrase));
  button.addEventListener("blur", () => highlight(null));
  button.addEventListener("click", () => selectPhrase(phrase));
}

/** Show whether the turn runs, and how it ended. */
export function renderState(turn) {
  turn.node.classList.toggle("running", turn.state === "running");
  turn.notes.replaceChildren();
  const addNote = (words) => turn.notes.append(createElement("p", "note", words));
  if (turn.state === "stopped") addNote(text("stopped"));
  if (turn.state === "broken") {
    addNote(turn.problem || text("brokenOff"));
    const button = createElement("button", "retry", text("retry"));
    button.type = "button";
    button.addEventListener("click", () => turn.onRetry(turn));
    turn.notes.append(button);
  }
  if (turn.state !== "done") return;
  const missing = turn.phrases.filter((phrase) => phrase.number === null);
  if (turn.phrases.length === 0) addNote(text("nothingFound"));
  else if (missing.length) {
    addNote(text("missing", { names: listNames(missing.map((phrase) => phrase.text)) }));
  }
}

export function setUpTurnViews() {
  subscribe(["shownTurn"], () => {
    for (const turn of state.turns) turn.node?.classList.toggle("shown", turn === state.shownTurn);
  });
  subscribe(["highlighted"], () => {
    const highlighted = highlightedPhrase();
    for (const turn of state.turns) {
      for (const [phrase, button] of turn.answerText?.buttons ?? []) {
        button.classList.toggle("lifted", phrase === highlighted);
        button.setAttribute("aria-pressed", phrase === state.selected);
      }
    }
  });
}
