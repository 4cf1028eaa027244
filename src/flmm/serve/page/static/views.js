// The picture's three views (masks, attention, comparison), and the line about a phrase below.

import { startTurn } from "./conversation.js";
import { byId, createElement } from "./dom.js";
import { MaskedPicture } from "./masked_picture.js";
import { buildQuestion, formatPercent } from "./phrases.js";
import { highlight, highlightedPhrase, notify, setPicture, state, subscribe } from "./state.js";

/** The drawing's longer side in pixels. */
const CANVAS_SIDE = 900;
const HINTS = {
  masks: "Point at a coloured word or at the picture. A click on a mask asks about it.",
  attention: "",
  comparison: "Point at a coloured word or at a picture: its mask comes forward in all of them.",
};

/** The MaskedPicture of `state.picture`, or null. */
let maskedPicture = null;

/** Return "masks", "attention" or "comparison". */
export function currentView() {
  return document.querySelector('#views input:checked').value;
}

export function setView(name) {
  document.querySelector(`#views input[value=${name}]`).click();
}

function askAbout(phrase) {
  byId("words").focus({ preventScroll: true });
  startTurn("ask", buildQuestion(phrase));
}

/** Show a new picture in the masks view, or the start screen if there is none. */
function showPicture() {
  const hasPicture = state.picture !== null;
  byId("welcome").hidden = hasPicture;
  byId("stage").hidden = !hasPicture;
  byId("another").hidden = !hasPicture;
  document.body.classList.toggle("talking", hasPicture);
  byId("frame").replaceChildren();
  byId("complaint").textContent = "";
  maskedPicture = null;
  if (!hasPicture) return;
  setView("masks");
  const callbacks = { onHighlight: highlight, onSelect: askAbout };
  maskedPicture = new MaskedPicture(state.picture, CANVAS_SIDE, callbacks);
  byId("frame").append(maskedPicture.root);
}

function showMasks() {
  maskedPicture?.show(state.shownTurn?.phrases ?? []);
}

/** Highlight the current phrase's mask, and describe the phrase below the picture. */
function showHighlightedPhrase() {
  const phrase = highlightedPhrase();
  maskedPicture?.highlight(phrase);
  byId("actions").hidden = state.selected === null;
  byId("look-at").hidden = state.shownTurn?.kind !== "ask";
  const fact = byId("fact");
  fact.replaceChildren();
  if (phrase === null) {
    fact.textContent = state.shownTurn?.phrases.length ? HINTS[currentView()] : "";
    return;
  }
  const number = createElement("span", "number", String(phrase.number));
  number.style.setProperty("--colour", phrase.colour);
  number.style.setProperty("--text-colour", phrase.textColour);
  const area = phrase.area ? `${formatPercent(phrase.areaFraction)} of the picture` : "not found";
  const score = phrase.area ? `, score ${phrase.score.toFixed(2)}` : "";
  fact.append(
    number,
    createElement("strong", "", phrase.text),
    createElement("span", "", area + score),
  );
}

function changeView() {
  const view = currentView();
  byId("frame").hidden = view === "comparison";
  byId("attention").hidden = view !== "attention";
  byId("comparison").hidden = view !== "comparison";
  byId("frame").classList.toggle("faded", view === "attention");
  byId("facts").hidden = view === "attention";
  byId("downloads").hidden = view === "attention";
  showHighlightedPhrase();
  notify("view");
}

export function setUpViews() {
  byId("views").addEventListener("change", changeView);
  byId("another").addEventListener("click", () => {
    setPicture(null);
    byId("open").focus();
  });
  byId("ask-about").addEventListener("click", () => askAbout(state.selected));
  byId("look-at").addEventListener("click", () => {
    setView("attention");
    byId("word").focus();
  });
  subscribe(["picture"], showPicture);
  subscribe(["turn", "shownTurn"], showMasks);
  subscribe(["turn", "shownTurn", "highlighted"], showHighlightedPhrase);
}
