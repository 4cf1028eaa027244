// The attention view: the attention map of one word, by layer and head, over the picture.

import { fetchJson } from "./api_client.js";
import { byId, createElement, showStatus } from "./dom.js";
import { formatError } from "./errors.js";
import { createCanvas, imageDataToCanvas, parseColour } from "./mask_drawing.js";
import { showPicture, state, subscribe } from "./state.js";
import { text as translate } from "./texts.js";
import { currentView } from "./views.js";

/** The canvas' longer side in pixels. */
const CANVAS_SIDE = 800;
// As in flmm/answers/heatmap.py: values above the quantile are clipped; opacity grows with heat.
const CLIP_QUANTILE = 0.995;
const OPACITY = { min: 0.35, range: 0.5 };
const WORD_PATTERN = /[\p{L}\p{N}]+(?:['’-][\p{L}\p{N}]+)*/gu;

let colourScale = [];
/** The attention of the word that is drawn, as `fetchAttention` returns it. */
let attention = null;
/** `state.selected` at its last change, to tell a new selection from a new highlight. */
let lastSelected = null;
const canvas = createCanvas(1, 1);
canvas.className = "heat";

/** List what can be chosen of a turn: its phrases, then its words; start in code points. */
function listChoices(turn) {
  const words = [...turn.text.matchAll(WORD_PATTERN)].map((match) => ({
    text: match[0],
    start: [...turn.text.slice(0, match.index)].length,
  }));
  return [
    { label: translate("phrases"), items: turn.phrases.map(({ text, start }) => ({ text, start })) },
    { label: translate("words"), items: words },
  ].map((group) => ({
    ...group,
    items: group.items.map((item) => addOccurrence(item, group.items)),
  }));
}

/** Add the item's index among the items with the same text, in the order of the answer. */
function addOccurrence(item, items) {
  const occurrence = items.filter(
    (other) => other.text === item.text && other.start < item.start,
  ).length;
  return { ...item, occurrence };
}

/** Fill the list of words; keep the selected one if the turn is the same as before. */
function fillWordList(turn) {
  const select = byId("word");
  const previous = select.value;
  select.replaceChildren();
  for (const { label, items } of listChoices(turn)) {
    if (items.length === 0) continue;
    const group = createElement("optgroup");
    group.label = label;
    for (const item of items) {
      const option = createElement("option", "", item.text);
      option.value = JSON.stringify(item);
      group.append(option);
    }
    select.append(group);
  }
  const isListed = [...select.options].some((option) => option.value === previous);
  if (isListed && select.dataset.turn === String(state.turns.indexOf(turn))) {
    select.value = previous;
  }
  select.dataset.turn = state.turns.indexOf(turn);
}

/** Choose the phrase that is selected in the answer, if there is one. */
function chooseSelectedPhrase() {
  const options = [...byId("word").options];
  const { start } = state.selected ?? {};
  const index = options.findIndex((option) => JSON.parse(option.value).start === start);
  if (index >= 0) byId("word").selectedIndex = index;
}

async function refresh() {
  canvas.remove();
  if (currentView() !== "attention") return;
  const turn = state.shownTurn;
  const isReady = turn?.kind === "ask" && turn.state !== "running" && turn.text !== "";
  for (const id of ["word", "layer", "head"]) byId(id).parentElement.hidden = !isReady;
  if (!isReady) {
    showNote(translate("nothingToAttend"));
    return;
  }
  fillWordList(turn);
  chooseSelectedPhrase();
  await showWord();
}

/** Draw the chosen word's map; fetch it once per turn and word. */
async function showWord() {
  const turn = state.shownTurn;
  const word = byId("word").value;
  if (!word) return;
  turn.attentionByWord ??= new Map();
  if (!turn.attentionByWord.has(word)) {
    showNote(translate("reading"));
    turn.attentionByWord.set(word, fetchAttention(turn, JSON.parse(word)));
  }
  try {
    const fetched = await turn.attentionByWord.get(word);
    // Another turn, word or view may have been chosen while this was fetched.
    if (state.shownTurn !== turn || byId("word").value !== word || currentView() !== "attention") {
      return;
    }
    attention = fetched;
  } catch (error) {
    turn.attentionByWord.delete(word);
    showNote("");
    showStatus(formatError(error), true);
    return;
  }
  byId("layer").max = attention.layers;
  byId("head").max = attention.heads;
  showPicture(state.pictures[turn.picture]);
  document.querySelector("#frame .masked").append(canvas);
  draw();
}

/**
 * Fetch the maps of all layers and heads for one word.
 *
 * Returns the reply with {word, values, width, isFirst}: `values` are the RGBA bytes of one image
 * of `width` pixels in which the maps lie side by side, layers as rows and heads as columns;
 * `isFirst`: whether the turn's request held no earlier turns.
 */
async function fetchAttention(turn, { text, start, occurrence }) {
  const reply = await fetchJson("/v1/attend", {
    image: state.pictures[turn.picture].url,
    question: turn.question,
    answer: turn.text,
    // The server matches a repeated word with its next occurrence in the answer.
    words: new Array(occurrence + 1).fill(text),
    each: true,
  });
  const word = reply.words.find((other) => other.start === start) ?? reply.words.at(-1);
  const image = new Image();
  image.src = word.each.png;
  await image.decode();
  const context = createCanvas(image.width, image.height).getContext("2d");
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, image.width, image.height);
  const isFirst = turn.earlier.length === 0;
  return { ...reply, word, values: data, width: image.width, isFirst };
}

/** List the chosen [layer, head] pairs; a slider at 0 stands for all layers or heads. */
function selectedPairs() {
  const range = (id, count) => {
    const value = Number(byId(id).value);
    return value === 0 ? [...new Array(count).keys()] : [value - 1];
  };
  const heads = range("head", attention.heads);
  return range("layer", attention.layers).flatMap((layer) => heads.map((head) => [layer, head]));
}

/** Sum the maps of [layer, head] pairs: (h, w) row by row. `draw` normalises the scale. */
function sumMaps(pairs) {
  const [rows, columns] = attention.grid;
  const map = new Float32Array(rows * columns);
  for (const [layer, head] of pairs) {
    const max = attention.word.each.most[layer][head];
    for (let index = 0; index < map.length; index++) {
      const y = layer * rows + Math.floor(index / columns);
      const x = head * columns + (index % columns);
      map[index] += max * attention.values[4 * (y * attention.width + x)];
    }
  }
  return map;
}

function draw() {
  const [rows, columns] = attention.grid;
  const pairs = selectedPairs();
  const map = sumMaps(pairs);
  const sorted = [...map].sort((one, other) => one - other);
  const clipValue = sorted[Math.round((sorted.length - 1) * CLIP_QUANTILE)] || 1;
  const image = new ImageData(columns, rows);
  map.forEach((value, index) => {
    const heat = Math.min(value / clipValue, 1);
    image.data.set(interpolateColour(heat), 4 * index);
    image.data[4 * index + 3] = 255 * (OPACITY.min + OPACITY.range * heat);
  });
  const { width, height } = state.picture;
  const scale = CANVAS_SIDE / Math.max(width, height);
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  // The map covers the LMM's canvas; the picture lies in a part of it.
  const [top, left, boxHeight, boxWidth] = attention.place;
  const scaleX = canvas.width / boxWidth;
  const scaleY = canvas.height / boxHeight;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(
    imageDataToCanvas(image),
    -left * scaleX,
    -top * scaleY,
    attention.canvas[1] * scaleX,
    attention.canvas[0] * scaleY,
  );
  const fractions = pairs.map(([layer, head]) => attention.word.each.on_picture[layer][head]);
  updateLabels(fractions.reduce((sum, fraction) => sum + fraction, 0) / fractions.length);
}

/** Name the chosen layer and head, and how much of the attention is on the picture. */
function updateLabels(pictureFraction) {
  for (const id of ["layer", "head"]) {
    const value = Number(byId(id).value);
    const count = Number(byId(id).max);
    const name = translate(value === 0 ? "meanOf" : "numberOf", { number: value, count });
    byId(`${id}-name`).textContent = name;
    byId(id).setAttribute("aria-valuetext", name);
  }
  const share = translate("attentionShare", { share: (100 * pictureFraction).toFixed(1) });
  showNote(attention.isFirst ? share : `${share} ${translate("readAlone")}`);
}

function showNote(text) {
  byId("attention-note").textContent = text;
}

/** Interpolate the colour scale at a value from 0 to 1; returns [red, green, blue]. */
function interpolateColour(heat) {
  const position = heat * (colourScale.length - 1);
  const lower = Math.min(Math.floor(position), colourScale.length - 2);
  return colourScale[lower].map(
    (value, channel) => value + (colourScale[lower + 1][channel] - value) * (position - lower),
  );
}

/** Connect the view; heatmapColours: "#rrggbb" from no attention to the most. */
export function setUpAttention(heatmapColours) {
  colourScale = heatmapColours.map(parseColour);
  byId("word").addEventListener("change", showWord);
  for (const id of ["layer", "head"]) byId(id).addEventListener("input", () => attention && draw());
  subscribe(["view", "shownTurn", "turn"], refresh);
  subscribe(["highlighted"], () => {
    if (state.selected !== lastSelected && currentView() === "attention") refresh();
    lastSelected = state.selected;
  });
}
