// The input below the conversation: ask, find, or mark a text; suggestions.

import { isRunning, startTurn } from "./conversation.js";
import { byId, createElement } from "./dom.js";
import { state, subscribe } from "./state.js";
import { text } from "./texts.js";

/** In English, which every model understands; shown in the page's language. */
const SUGGESTIONS = { askWhat: "What is in the picture?", askBackground: "What is in the background?" };
const MODE_TEXTS = {
  ask: { label: "question", button: "ask", hint: "askHint" },
  find: { label: "phraseToFind", button: "find", hint: "findHint" },
  mark: { label: "textToMark", button: "markButton", hint: "markHint" },
};

/** Put the cursor into the input, unless that would open an on-screen keyboard. */
export function focusInput() {
  if (matchMedia("(hover: hover)").matches) byId("words").focus({ preventScroll: true });
}

/** Return "ask", "find" or "mark". */
function currentMode() {
  return byId("composer").elements.mode.value;
}

function updateModeTexts() {
  const { label, button, hint } = MODE_TEXTS[currentMode()];
  byId("words-label").textContent = text(label);
  byId("words").placeholder = text(hint);
  byId("send").textContent = text(button);
}

function submit(event) {
  event.preventDefault();
  const words = byId("words").value.trim();
  if (!words || isRunning()) return;
  byId("words").value = "";
  startTurn(currentMode(), words);
}

/** Set up the input; hasMemory: whether the model is told all earlier turns. */
export function setUpComposer(hasMemory) {
  byId("composer").addEventListener("submit", submit);
  byId("composer").addEventListener("change", updateModeTexts);
  for (const [name, question] of Object.entries(SUGGESTIONS)) {
    const button = createElement("button", "", text(name));
    button.type = "button";
    button.addEventListener("click", () => {
      focusInput();
      startTurn("ask", question);
    });
    byId("suggestions").append(button);
  }
  updateModeTexts();
  byId("memory").textContent = text("memory");
  subscribe(["conversation", "turn", "shownTurn"], () => {
    byId("suggestions").hidden = state.turns.length > 0;
    byId("memory").hidden = hasMemory || state.turns.length === 0;
  });
}
