// The same phrases three ways: K-means, the mask decoder alone, and refined.

import { explained, remade } from "./conversation.js";
import { byId, element, report } from "./elements.js";
import { MaskedPicture } from "./masked_picture.js";
import { preparedPhrase } from "./phrases.js";
import { view } from "./stage.js";
import { choose, forward, lift, listen, state } from "./state.js";

const SIDE = 560;
const WAYS = [
  { name: "K-means", note: "nothing trained", wish: { method: "kmeans" } },
  { name: "Mask decoder", note: "without SAM", wish: { refine: false } },
  { name: "Refined", note: "with SAM", wish: null },
];

let panels = [];

function build() {
  byId("comparison").replaceChildren();
  panels = WAYS.map((way) => {
    const figure = element("figure");
    const picture = new MaskedPicture(state.picture, SIDE, {
      badges: false,
      // The panels' own phrases stand for those of the answer.
      onLift: (phrase) => lift(phrase && phrase.original),
      onPick: (phrase) => choose(phrase.original),
    });
    const caption = element("figcaption");
    caption.append(element("strong", "", way.name), element("span", "", way.note));
    figure.append(picture.root, caption);
    byId("comparison").append(figure);
    return { way, picture };
  });
}

async function refresh() {
  if (view() !== "comparison" || state.picture === null) return;
  if (panels.length === 0) build();
  const turn = state.shown;
  if (turn === null || turn.state === "running" || turn.phrases.length === 0) {
    panels.forEach(({ picture }) => picture.show([]));
    return;
  }
  await Promise.all(panels.map((panel) => showWay(panel, turn)));
}

async function showWay({ way, picture }, turn) {
  turn.ways ??= new Map();
  if (!turn.ways.has(way)) {
    picture.show([]);
    picture.root.classList.add("waiting");
    turn.ways.set(way, phrasesOf(turn, way));
  }
  try {
    const phrases = await turn.ways.get(way);
    if (state.shown === turn) picture.show(phrases);
    liftAll();
  } catch (error) {
    turn.ways.delete(way);
    report(explained(error), true);
  }
  picture.root.classList.remove("waiting");
}

/** The turn's phrases, with this way's masks, in the turn's colours. */
async function phrasesOf(turn, { wish }) {
  const told = wish === null ? turn.phrases : await remade(turn, wish);
  return turn.phrases.flatMap((original, index) => {
    const same = told.find(({ start, text }) => start === original.start && text === original.text);
    return same ? [{ ...preparedPhrase(same, index), original }] : [];
  });
}

function liftAll() {
  const phrase = forward();
  for (const { picture } of panels) {
    const own = [...picture.drawn.keys()].find(({ original }) => original === phrase);
    picture.lift(own ?? null);
  }
}

export function setUpComparison() {
  listen(["picture"], () => (panels = []));
  listen(["view", "shown", "turn"], refresh);
  listen(["lifted"], liftAll);
}
