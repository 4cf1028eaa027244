// The comparison view: the same phrases' masks by several methods, side by side.

import { formatError, regenerateMasks } from "./conversation.js";
import { byId, createElement, showStatus } from "./dom.js";
import { MaskedPicture } from "./masked_picture.js";
import { preparePhrase } from "./phrases.js";
import { highlight, highlightedPhrase, selectPhrase, state, subscribe } from "./state.js";
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
  if (panels.length === 0) buildPanels();
  const turn = state.shownTurn;
  if (turn === null || turn.state === "running" || turn.phrases.length === 0) {
    panels.forEach(({ picture }) => picture.show([]));
    return;
  }
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
    if (state.shownTurn === turn) picture.show(phrases);
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
  return turn.phrases.flatMap((original, index) => {
    const reply = replies.find(
      ({ start, text }) => start === original.start && text === original.text,
    );
    return reply ? [{ ...preparePhrase(reply, index), original }] : [];
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
  subscribe(["picture"], () => (panels = []));
  subscribe(["view", "shownTurn", "turn"], refresh);
  subscribe(["highlighted"], highlightInPanels);
}
