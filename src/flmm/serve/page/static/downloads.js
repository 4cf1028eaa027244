// The downloads of an answer: overlay, COCO annotations and masks.

import { byId, showStatus } from "./dom.js";
import { formatError } from "./errors.js";
import { createZip, downloadFile, encodeGreyPng } from "./file_formats.js";
import { drawOverlay } from "./overlay.js";
import { decodeBox } from "./rle.js";
import { buildAnswerPage } from "./share.js";
import { shownPhrases, state, subscribe } from "./state.js";

/** Derive the files' common name from the picture's: no extension, only safe characters. */
function fileStem() {
  return state.picture.name.replace(/\.[^.]*$/, "").replace(/[^\p{L}\p{N}_-]+/gu, "-") || "picture";
}

async function saveOverlay() {
  const image = document.querySelector("#frame img");
  await image.decode();
  const canvas = drawOverlay(image, state.picture, state.shownTurn, shownPhrases());
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  downloadFile(`${fileStem()}-flmm.png`, blob, "image/png");
}

/** Save the answer as an HTML file of its own, with those pictures that have masks. */
async function savePage() {
  const turn = state.shownTurn;
  const parts = state.pictures.map(async (picture, index) => {
    const image = new Image();
    image.src = picture.url;
    await image.decode();
    return { image, picture, phrases: turn.phrases.filter((each) => each.picture === index) };
  });
  const shown = (await Promise.all(parts)).filter(({ phrases }) => phrases.length > 0);
  downloadFile(`${fileStem()}-flmm.html`, buildAnswerPage(turn, shown), "text/html");
}

/** List the phrases on the shown picture that have a mask. */
function foundPhrases() {
  return shownPhrases().filter((phrase) => phrase.number !== null);
}

/** Save COCO instances, in the form of Answer.to_coco in flmm. */
function saveCoco() {
  const { width, height, name } = state.picture;
  const phrases = foundPhrases();
  const names = [...new Set(phrases.map(({ text }) => text))];
  const dataset = {
    images: [{ id: 1, width, height, file_name: name }],
    annotations: phrases.map(({ text, mask, box: [x0, y0, x1, y1], area, score }, index) => ({
      id: index + 1,
      image_id: 1,
      category_id: names.indexOf(text) + 1,
      segmentation: mask,
      bbox: [x0, y0, x1 - x0, y1 - y0],
      area,
      iscrowd: 0,
      score,
    })),
    categories: names.map((text, index) => ({ id: index + 1, name: text })),
  };
  downloadFile(`${fileStem()}-flmm.json`, JSON.stringify(dataset), "application/json");
}

async function saveMasks() {
  const files = [];
  for (const { number, text, runEnds, mask } of foundPhrases()) {
    const [height, width] = mask.size;
    const words = text.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40);
    const pixels = decodeBox(runEnds, height, [0, 0, width, height]);
    const content = await encodeGreyPng(pixels, width, height);
    files.push({ name: `${String(number).padStart(2, "0")}-${words}.png`, content });
  }
  downloadFile(`${fileStem()}-masks.zip`, createZip(files), "application/zip");
}

export function setUpDownloads() {
  const buttons = {
    "save-overlay": saveOverlay, "save-page": savePage, "save-coco": saveCoco,
    "save-masks": saveMasks,
  };
  for (const [id, save] of Object.entries(buttons)) {
    byId(id).addEventListener("click", async () => {
      try {
        await save();
      } catch (error) {
        showStatus(formatError(error), true);
      }
    });
  }
  subscribe(["turn", "shownTurn", "picture"], () => {
    const isReady = state.shownTurn?.state !== "running" && foundPhrases().length > 0;
    for (const id of Object.keys(buttons)) byId(id).disabled = !isReady;
  });
}
