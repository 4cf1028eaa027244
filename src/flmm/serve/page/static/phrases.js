// Phrases of the server's replies, with what the page adds: number, colours, decoded mask.

import { decodeRunEnds } from "./rle.js";

let colours = [];
let repeat = 1;

/** Set the colours of phrases, those of flmm's overlays, from the reply to /page/about. */
export function setColours(config) {
  colours = config.colours;
  repeat = config.repeat;
}

/**
 * Add number, colour, textColour, runEnds and areaFraction to a phrase of a reply.
 *
 * `index` counts from 0 in the answer; beyond the last colour the last `repeat` ones recur.
 */
export function preparePhrase(reply, index) {
  const last = colours.length - repeat;
  const { fill, ink } = colours[index < colours.length ? index : last + (index % repeat)];
  return {
    ...reply,
    number: index + 1,
    colour: fill,
    textColour: ink,
    runEnds: decodeRunEnds(reply.mask),
    areaFraction: reply.area / (reply.mask.size[0] * reply.mask.size[1]),
  };
}

/** Format a fraction from 0 to 1 as a percentage. */
export function formatPercent(fraction) {
  const value = 100 * fraction;
  return value > 0 && value < 1 ? "under 1 %" : `${Math.round(value)} %`;
}

/** Build a question about a phrase: "Where is the ...?" */
export function buildQuestion(phrase) {
  const name = phrase.text.trim().replace(/^(the|an?)\s+/i, "");
  const isPlural = /^(two|three|four|five|six|seven|eight|nine|ten|\d+)\s/i.test(name);
  return `Where ${isPlural ? "are" : "is"} the ${name}?`;
}
