// The picture's three views (masks, attention, comparison), and the line about a phrase below.

import { focusInput } from "./composer.js";
import { startTurn } from "./conversation.js";
import { byId, createElement } from "./dom.js";
import { MaskedPicture } from "./masked_picture.js";
import { buildQuestion, describePhrase } from "./phrases.js";
import {
  highlight, highlightedPhrase, notify, showPicture, shownPhrases, state, subscribe,
} from "./state.js";
import { openTalk, openWelcome } from "./talks.js";
import { text } from "./texts.js";

/** The drawing's longer side in pixels. */
const CANVAS_SIDE = 900;
const HINTS = { masks: "masksHint", comparison: "comparisonHint" };

/** The MaskedPicture of `state.picture`, or null. */
let maskedPicture = null;

/** Return "masks", "attention" or "comparison". */
export function currentView() {
  return document.querySelector("#views input:checked").value;
}

export function setView(name) {
  document.querySelector(`#views input[value=${name}]`).click();
}

function askAbout(phrase) {
  focusInput();
  startTurn("ask", buildQuestion(phrase));
}

/** Show a conversation in the masks view, or the start screen if there is none. */
function showConversation() {
  const hasPicture = state.picture !== null;
  byId("welcome").hidden = hasPicture;
  byId("stage").hidden = !hasPicture;
  byId("another").hidden = !hasPicture;
  document.body.classList.toggle("talking", hasPicture);
  byId("complaint").textContent = "";
  if (hasPicture) setView("masks");
  else byId("frame").replaceChildren();
  byId("pictures").hidden = state.pictures.length < 2;
  byId("pictures").replaceChildren(...state.pictures.map(buildThumbnail));
}

function buildThumbnail(picture, index) {
  const button = createElement("button");
  button.type = "button";
  button.ariaLabel = text("pictureNumber", { number: index + 1, name: picture.name });
  const image = createElement("img");
  Object.assign(image, { src: picture.url, alt: "" });
  button.append(image);
  button.addEventListener("click", () => showPicture(picture));
  return button;
}

function replacePicture() {
  maskedPicture = null;
  byId("frame").replaceChildren();
  if (state.picture === null) return;
  maskedPicture = new MaskedPicture(state.picture, CANVAS_SIDE, {
    onHighlight: highlight,
    onSelect: askAbout,
  });
  byId("frame").append(maskedPicture.root);
  [...byId("pictures").children].forEach((button, index) => {
    button.setAttribute("aria-pressed", state.pictures[index] === state.picture);
  });
  showMasks();
}

function showMasks() {
  maskedPicture?.show(shownPhrases());
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
    const hint = HINTS[currentView()];
    if (hint && shownPhrases().length) fact.textContent = text(hint);
    return;
  }
  if (phrase.number !== null) {
    const number = createElement("span", "number", String(phrase.number));
    number.style.setProperty("--colour", phrase.colour);
    number.style.setProperty("--text-colour", phrase.textColour);
    fact.append(number);
  }
  fact.append(
    createElement("strong", "", phrase.text),
    createElement("span", "", describePhrase(phrase)),
  );
}

function changeView() {
  const view = currentView();
  document.body.dataset.view = view;
  byId("frame").hidden = view === "comparison";
  byId("attention").hidden = view !== "attention";
  byId("comparison").hidden = view !== "comparison";
  byId("frame").classList.toggle("faded", view === "attention");
  byId("facts").hidden = view === "attention";
  byId("downloads").hidden = view === "attention";
  showHighlightedPhrase();
  notify("view");
}

function showTurnControls() {
  byId("restart").hidden = state.turns.length === 0;
}

export function setUpViews() {
  byId("views").addEventListener("change", changeView);
  byId("restart").addEventListener("click", () => {
    openTalk([...state.pictures]);
    focusInput();
  });
  byId("another").addEventListener("click", () => {
    openWelcome();
    byId("open").focus();
  });
  byId("ask-about").addEventListener("click", () => askAbout(state.selected));
  byId("look-at").addEventListener("click", () => {
    setView("attention");
    byId("word").focus();
  });
  subscribe(["conversation"], showConversation);
  subscribe(["picture"], replacePicture);
  subscribe(["turn", "shownTurn"], showMasks);
  subscribe(["turn", "shownTurn", "highlighted", "picture"], showHighlightedPhrase);
  subscribe(["conversation", "turn", "shownTurn"], showTurnControls);
}
