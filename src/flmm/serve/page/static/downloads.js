// What can be taken away from an answer.

import { explained } from "./conversation.js";
import { byId, report } from "./elements.js";
import { greyPng, save, zipped } from "./files.js";
import { drawOverlay } from "./overlay.js";
import { pixelsIn } from "./run_lengths.js";
import { listen, state } from "./state.js";

function stem() {
  return state.picture.name.replace(/\.[^.]*$/, "").replace(/[^\p{L}\p{N}_-]+/gu, "-") || "picture";
}

async function saveOverlay() {
  const image = document.querySelector("#frame img");
  await image.decode();
  const canvas = drawOverlay(image, state.shown);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  save(`${stem()}-flmm.png`, blob, "image/png");
}

/** COCO instances, as flmm's Answer.to_coco gives them. */
function saveCoco() {
  const { width, height, name } = state.picture;
  const phrases = state.shown.phrases;
  const names = [...new Set(phrases.map(({ text }) => text))];
  const content = {
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
  save(`${stem()}-flmm.json`, JSON.stringify(content), "application/json");
}

async function saveMasks() {
  const files = [];
  for (const { number, text, ends, mask } of state.shown.phrases) {
    const [height, width] = mask.size;
    const words = text.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40);
    const content = await greyPng(pixelsIn(ends, height, [0, 0, width, height]), width, height);
    files.push({ name: `${String(number).padStart(2, "0")}-${words}.png`, content });
  }
  save(`${stem()}-masks.zip`, zipped(files), "application/zip");
}

export function setUpDownloads() {
  const buttons = { "save-overlay": saveOverlay, "save-coco": saveCoco, "save-masks": saveMasks };
  for (const [id, work] of Object.entries(buttons)) {
    byId(id).addEventListener("click", async () => {
      try {
        await work();
      } catch (error) {
        report(explained(error), true);
      }
    });
  }
  listen(["turn", "shown"], () => {
    const turn = state.shown;
    const isReady = turn !== null && turn.state !== "running" && turn.phrases.length > 0;
    for (const id of Object.keys(buttons)) byId(id).disabled = !isReady;
  });
}
