// Phrases as the server tells of them, with what the page adds: colour, number, decoded mask.

import { runEnds } from "./run_lengths.js";

let colours = [];
let repeat = 1;

/** The colours that flmm's own overlays have, from the server. */
export function setColours(about) {
  colours = about.colours;
  repeat = about.repeat;
}

/** A phrase, ready to be shown; `index` counts from 0 in its answer. */
export function preparedPhrase(told, index) {
  const last = colours.length - repeat;
  const { fill, ink } = colours[index < colours.length ? index : last + (index % repeat)];
  return {
    ...told,
    number: index + 1,
    colour: fill,
    onColour: ink,
    ends: runEnds(told.mask),
    share: told.area / (told.mask.size[0] * told.mask.size[1]),
  };
}

/** How much of the picture a mask covers, for people. */
export function percent(share) {
  const value = 100 * share;
  return value > 0 && value < 1 ? "under 1 %" : `${Math.round(value)} %`;
}

/** A question about what a phrase names. */
export function questionAbout(phrase) {
  const name = phrase.text.trim().replace(/^(the|an?)\s+/i, "");
  const several = /^(two|three|four|five|six|seven|eight|nine|ten|\d+)\s/i.test(name);
  return `Where ${several ? "are" : "is"} the ${name}?`;
}
