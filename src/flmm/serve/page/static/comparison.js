// The comparison view: the same phrases' masks by several methods, side by side.

import { byId, createElement, showStatus } from "./dom.js";
import { formatError } from "./errors.js";
import { MaskedPicture } from "./masked_picture.js";
import { decodeMask } from "./phrases.js";
import { regenerateMasks } from "./requests.js";
import { highlight, highlightedPhrase, selectPhrase, state, subscribe } from "./state.js";
import { text } from "./texts.js";
import { currentView } from "./views.js";

/** Each drawing's longer side in pixels. */
const CANVAS_SIDE = 560;

/**
 * The server's methods: {name, note, options}. options: what `regenerateMasks` takes; null stands
 * for the answer's own masks.
 */
let methods = [];
/** One panel a method: {method, picture}; empty until the view is first shown. */
let panels = [];

function buildPanels() {
  byId("comparison").replaceChildren();
  panels = methods.map((method) => {
    const figure = createElement("figure");
    const picture = new MaskedPicture(state.picture, CANVAS_SIDE, {
      hasBadges: false,
      // A panel has copies of the phrases with masks of its own; the state has the originals.
      onHighlight: (phrase) => highlight(phrase && phrase.original),
      onSelect: (phrase) => selectPhrase(phrase.original),
    });
    const caption = createElement("figcaption");
    const { name, note } = method;
    caption.append(createElement("strong", "", name), createElement("span", "", note));
    figure.append(picture.root, caption);
    byId("comparison").append(figure);
    return { method, picture };
  });
}

async function refresh() {
  if (currentView() !== "comparison" || state.picture === null) return;
  const turn = state.shownTurn;
  const isReady = turn !== null && turn.state !== "running" && turn.phrases.length > 0;
  byId("comparison-note").hidden = isReady;
  byId("comparison").hidden = !isReady;
  if (!isReady) return;
  if (panels.length === 0) buildPanels();
  await Promise.all(panels.map((panel) => showMethod(panel, turn)));
}

/** Show one method's masks; fetch them once per turn. */
async function showMethod({ method, picture }, turn) {
  turn.phrasesByMethod ??= new Map();
  if (!turn.phrasesByMethod.has(method)) {
    picture.show([]);
    picture.root.classList.add("waiting");
    turn.phrasesByMethod.set(method, fetchPhrases(turn, method));
  }
  try {
    const phrases = await turn.phrasesByMethod.get(method);
    const index = state.pictures.indexOf(picture.picture);
    if (state.shownTurn === turn) picture.show(phrases.filter((each) => each.picture === index));
    highlightInPanels();
  } catch (error) {
    turn.phrasesByMethod.delete(method);
    showStatus(formatError(error), true);
  }
  picture.root.classList.remove("waiting");
}

/** Fetch the turn's phrases with this method's masks; numbers and colours stay the same. */
async function fetchPhrases(turn, { options }) {
  const replies = options === null ? turn.phrases : await regenerateMasks(turn, options);
  return turn.phrases.flatMap((original) => {
    const reply = replies.find(
      (other) => other.start === original.start && other.text === original.text,
    );
    if (!reply) return [];
    const { number, colour, textColour } = original;
    const decoded = decodeMask(reply, state.pictures[original.picture]);
    return [{ ...decoded, number, colour, textColour, original }];
  });
}

function highlightInPanels() {
  const phrase = highlightedPhrase();
  for (const { picture } of panels) {
    const copy = [...picture.drawings.keys()].find(({ original }) => original === phrase);
    picture.highlight(copy ?? null);
  }
}

/** Set up the view for these methods, those of the reply to /page/about. */
export function setUpComparison(comparedMethods) {
  methods = comparedMethods;
  byId("comparison-note").textContent = text("nothingToCompare", { count: methods.length });
  subscribe(["conversation", "picture"], () => (panels = []));
  subscribe(["view", "shownTurn", "turn", "picture"], refresh);
  subscribe(["view"], () => {
    if (currentView() !== "comparison") byId("comparison-note").hidden = true;
  });
  subscribe(["highlighted"], highlightInPanels);
}
