// Phrases of the server's replies, with what the page adds: number, colours, decoded mask.

import { decodeRunEnds, scaleMask } from "./rle.js";
import { language, text } from "./texts.js";

/** Of a phrase that was not found, which has no number. */
const ABSENT_COLOURS = { fill: "#767b84", ink: "#ffffff" };
/** Scores from which a mask is called sure, and fairly sure. */
const SURE_SCORES = [0.8, 0.5];

let colours = [];
let repeat = 1;

/** Set the colours of phrases, those of flmm's overlays, from the reply to /page/about. */
export function setColours(config) {
  colours = config.colours;
  repeat = config.repeat;
}

/**
 * Return a phrase of a reply with number, colour, textColour, runEnds and areaFraction.
 *
 * `found`: the phrases of the answer so far that have a mask; beyond the last colour the last
 * `repeat` ones recur. `picture`: the phrase's, to whose size the mask is scaled.
 */
export function preparePhrase(reply, found, picture) {
  const isFound = reply.area > 0;
  const last = colours.length - repeat;
  const { fill, ink } = isFound
    ? colours[found < colours.length ? found : last + (found % repeat)]
    : ABSENT_COLOURS;
  return {
    ...decodeMask(reply, picture),
    number: isFound ? found + 1 : null,
    colour: fill,
    textColour: ink,
  };
}

/** Return a phrase of a reply with its mask scaled to the picture and decoded. */
export function decodeMask(reply, { width, height }) {
  const scaled = scaleMask(reply, width, height);
  return {
    ...reply,
    ...scaled,
    runEnds: decodeRunEnds(scaled.mask),
    areaFraction: scaled.area / (width * height),
  };
}

/** Return what a server's reply holds of a phrase. */
export function toReply({ text, start, end, score, box, area, mask, picture }) {
  return { text, start, end, score, box, area, mask, picture };
}

/** Describe where a phrase is: its share of the picture, and how sure that is. */
export function describePhrase(phrase) {
  if (!phrase.area) return text("notFound");
  const level = SURE_SCORES.findIndex((score) => phrase.score >= score);
  const sureness = text(["sure", "fairlySure"][level] ?? "unsure");
  return text("ofThePicture", { share: formatPercent(phrase.areaFraction), sureness });
}

function formatPercent(fraction) {
  const value = 100 * fraction;
  return value > 0 && value < 1 ? text("underOnePercent") : `${Math.round(value)} %`;
}

/** List names as a sentence does: "the dog and the cat". */
export function listNames(names) {
  return new Intl.ListFormat(language).format(names);
}

/** Build a question about a phrase: "Where is the ...?" */
export function buildQuestion(phrase) {
  const name = phrase.text.trim().replace(/^(the|an?)\s+/i, "");
  const isPlural = /^(two|three|four|five|six|seven|eight|nine|ten|\d+)\s/i.test(name);
  return `Where ${isPlural ? "are" : "is"} the ${name}?`;
}
