// Where the model looked with a word, layer by layer and head by head.

import { explained } from "./conversation.js";
import { byId, element, report } from "./elements.js";
import { canvasOf, channels, newCanvas } from "./mask_drawing.js";
import { view } from "./stage.js";
import { fetchJson } from "./server.js";
import { listen, state } from "./state.js";

const SIDE = 800;
// As flmm.heat draws: this share of a map is in scale, and it is the denser the hotter.
const HOTTEST = 0.995;
const DENSITY = { least: 0.35, more: 0.5 };
const WORD = /[\p{L}\p{N}]+(?:['’-][\p{L}\p{N}]+)*/gu;

let heat = [];
let look = null;
/** The phrase that was chosen last. */
let chosen = null;
const canvas = newCanvas(1, 1);
canvas.className = "heat";

/** What can be chosen of a turn: its phrases, then its words; start in code points. */
function choices(turn) {
  const words = [...turn.text.matchAll(WORD)].map((match) => ({
    text: match[0],
    start: [...turn.text.slice(0, match.index)].length,
  }));
  return [
    { label: "Phrases", items: turn.phrases.map(({ text, start }) => ({ text, start })) },
    { label: "Words", items: words },
  ].map((group) => ({ ...group, items: group.items.map((item) => numbered(item, group.items)) }));
}

/** With its place among those that read the same. */
function numbered(item, items) {
  const nth = items.filter((one) => one.text === item.text && one.start < item.start).length;
  return { ...item, nth };
}

function fillWords(turn) {
  const select = byId("word");
  const before = select.value;
  select.replaceChildren();
  for (const { label, items } of choices(turn)) {
    if (items.length === 0) continue;
    const group = element("optgroup");
    group.label = label;
    for (const item of items) {
      const option = element("option", "", item.text);
      option.value = JSON.stringify(item);
      group.append(option);
    }
    select.append(group);
  }
  const still = [...select.options].some((option) => option.value === before);
  if (still && select.dataset.turn === String(state.turns.indexOf(turn))) select.value = before;
  select.dataset.turn = state.turns.indexOf(turn);
}

/** A phrase that was chosen before is the one that is looked at. */
function chooseForward() {
  const options = [...byId("word").options];
  const { start } = state.chosen ?? {};
  const index = options.findIndex((option) => JSON.parse(option.value).start === start);
  if (index >= 0) byId("word").selectedIndex = index;
}

async function refresh() {
  canvas.remove();
  if (view() !== "attention") return;
  const turn = state.shown;
  const isReady = turn?.kind === "ask" && turn.state !== "running" && turn.text !== "";
  for (const id of ["word", "layer", "head"]) byId(id).disabled = !isReady;
  if (!isReady) {
    note("Ask a question first: then each word of the answer shows where the model looked.");
    return;
  }
  fillWords(turn);
  chooseForward();
  await showWord();
}

async function showWord() {
  const turn = state.shown;
  const word = byId("word").value;
  if (!word) return;
  turn.looks ??= new Map();
  if (!turn.looks.has(word)) {
    note("Reading …");
    turn.looks.set(word, fetched(turn, JSON.parse(word)));
  }
  try {
    const found = await turn.looks.get(word);
    if (state.shown !== turn || byId("word").value !== word || view() !== "attention") return;
    look = found;
  } catch (error) {
    turn.looks.delete(word);
    note("");
    report(explained(error), true);
    return;
  }
  byId("layer").max = look.layers;
  byId("head").max = look.heads;
  document.querySelector("#frame .masked").append(canvas);
  draw();
}

async function fetched(turn, { text, start, nth }) {
  const reply = await fetchJson("/v1/attend", {
    image: state.picture.url,
    question: turn.question,
    answer: turn.text,
    // The server takes a word that is named again as its next mention.
    words: new Array(nth + 1).fill(text),
    each: true,
  });
  const word = reply.words.find((one) => one.start === start) ?? reply.words.at(-1);
  const image = new Image();
  image.src = word.each.png;
  await image.decode();
  const context = newCanvas(image.width, image.height).getContext("2d");
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, image.width, image.height);
  const isFirst = turn.messages.length === 1;
  return { ...reply, word, values: data, width: image.width, isFirst };
}

/** The chosen layer's and head's place, or all places whose mean is chosen. */
function places() {
  const range = (id, count) => {
    const value = Number(byId(id).value);
    return value === 0 ? [...new Array(count).keys()] : [value - 1];
  };
  const heads = range("head", look.heads);
  return range("layer", look.layers).flatMap((layer) => heads.map((head) => [layer, head]));
}

/** The sum of the maps at these places, (h, w) row by row; its scale does not matter. */
function summed(chosenPlaces) {
  const [rows, columns] = look.grid;
  const map = new Float32Array(rows * columns);
  for (const [layer, head] of chosenPlaces) {
    const most = look.word.each.most[layer][head];
    for (let at = 0; at < map.length; at++) {
      const y = layer * rows + Math.floor(at / columns);
      const x = head * columns + (at % columns);
      map[at] += most * look.values[4 * (y * look.width + x)];
    }
  }
  return map;
}

function draw() {
  const [rows, columns] = look.grid;
  const chosenPlaces = places();
  const map = summed(chosenPlaces);
  const sorted = [...map].sort((one, other) => one - other);
  const hottest = sorted[Math.round((sorted.length - 1) * HOTTEST)] || 1;
  const image = new ImageData(columns, rows);
  map.forEach((value, at) => {
    const share = Math.min(value / hottest, 1);
    image.data.set(colourOf(share), 4 * at);
    image.data[4 * at + 3] = 255 * (DENSITY.least + DENSITY.more * share);
  });
  const { width, height } = state.picture;
  const scale = SIDE / Math.max(width, height);
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  // The map covers the model's canvas, of which the picture takes a part.
  const [top, left, placeHeight, placeWidth] = look.place;
  const across = canvas.width / placeWidth;
  const down = canvas.height / placeHeight;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(
    canvasOf(image), -left * across, -top * down, look.canvas[1] * across, look.canvas[0] * down,
  );
  const shares = chosenPlaces.map(([layer, head]) => look.word.each.on_picture[layer][head]);
  describe(shares.reduce((sum, share) => sum + share, 0) / shares.length);
}

function describe(onPicture) {
  for (const id of ["layer", "head"]) {
    const value = Number(byId(id).value);
    const count = Number(byId(id).max);
    const name = value === 0 ? `mean of ${count}` : `${value - 1} of 0 to ${count - 1}`;
    byId(`${id}-name`).textContent = name;
    byId(id).setAttribute("aria-valuetext", name);
  }
  const share = `${(100 * onPicture).toFixed(1)} % of this attention is on the picture.`;
  note(look.isFirst ? share : `${share} Read without the questions before this one.`);
}

function note(text) {
  byId("attention-note").textContent = text;
}

function colourOf(share) {
  const place = share * (heat.length - 1);
  const lower = Math.min(Math.floor(place), heat.length - 2);
  return heat[lower].map((value, at) => value + (heat[lower + 1][at] - value) * (place - lower));
}

export function setUpAttention(colours) {
  heat = colours.map(channels);
  byId("word").addEventListener("change", showWord);
  for (const id of ["layer", "head"]) byId(id).addEventListener("input", () => look && draw());
  listen(["view", "shown", "turn"], refresh);
  listen(["lifted"], () => {
    if (state.chosen !== chosen && view() === "attention") refresh();
    chosen = state.chosen;
  });
}
