// The picture, what is known of the phrase that is forward, and the three views.

import { byId, element } from "./elements.js";
import { begin } from "./conversation.js";
import { MaskedPicture } from "./masked_picture.js";
import { percent, questionAbout } from "./phrases.js";
import { forward, lift, listen, setPicture, state, tell } from "./state.js";

const SIDE = 900;
const HINTS = {
  masks: "Point at a coloured word or at the picture. A click on a mask asks about it.",
  attention: "",
  comparison: "Point at a coloured word or at a picture: its mask comes forward in all three.",
};

let picture = null;

/** "masks", "attention" or "comparison". */
export function view() {
  return document.querySelector('#views input:checked').value;
}

export function setView(name) {
  document.querySelector(`#views input[value=${name}]`).click();
}

function ask(phrase) {
  byId("words").focus({ preventScroll: true });
  begin("ask", questionAbout(phrase));
}

function newPicture() {
  const isThere = state.picture !== null;
  byId("welcome").hidden = isThere;
  byId("stage").hidden = !isThere;
  byId("another").hidden = !isThere;
  document.body.classList.toggle("talking", isThere);
  byId("frame").replaceChildren();
  byId("complaint").textContent = "";
  picture = null;
  if (!isThere) return;
  setView("masks");
  picture = new MaskedPicture(state.picture, SIDE, { onLift: lift, onPick: ask });
  byId("frame").append(picture.root);
}

function showMasks() {
  picture?.show(state.shown?.phrases ?? []);
}

function showForward() {
  const phrase = forward();
  picture?.lift(phrase);
  byId("actions").hidden = state.chosen === null;
  byId("look-at").hidden = state.shown?.kind !== "ask";
  const fact = byId("fact");
  fact.replaceChildren();
  if (phrase === null) {
    fact.textContent = state.shown?.phrases.length ? HINTS[view()] : "";
    return;
  }
  const number = element("span", "number", String(phrase.number));
  number.style.setProperty("--colour", phrase.colour);
  number.style.setProperty("--on", phrase.onColour);
  const where = phrase.area ? `${percent(phrase.share)} of the picture` : "not found";
  const score = phrase.area ? `, score ${phrase.score.toFixed(2)}` : "";
  fact.append(number, element("strong", "", phrase.text), element("span", "", where + score));
}

function changeView() {
  byId("frame").hidden = view() === "comparison";
  byId("attention").hidden = view() !== "attention";
  byId("comparison").hidden = view() !== "comparison";
  byId("frame").classList.toggle("faded", view() === "attention");
  byId("facts").hidden = view() === "attention";
  byId("downloads").hidden = view() === "attention";
  showForward();
  tell("view");
}

export function setUpStage() {
  byId("views").addEventListener("change", changeView);
  byId("another").addEventListener("click", () => {
    setPicture(null);
    byId("open").focus();
  });
  byId("ask-about").addEventListener("click", () => ask(state.chosen));
  byId("look-at").addEventListener("click", () => {
    setView("attention");
    byId("word").focus();
  });
  listen(["picture"], newPicture);
  listen(["turn", "shown"], showMasks);
  listen(["turn", "shown", "lifted"], showForward);
}
