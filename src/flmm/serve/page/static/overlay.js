// The picture with its masks, and below it the answer: one drawing to keep.

import { badgePlace } from "./badge_place.js";
import { drawMask, newCanvas } from "./mask_drawing.js";

// As flmm.overlay has them.
const SMALLEST_SIDE = 720;
const MOST_PIXELS = 2500000;
const PAPER = "#fcfcfa";
const INK = "#202124";

/** A canvas; image: loaded, of the picture. */
export function drawOverlay(image, turn) {
  const { naturalWidth, naturalHeight } = image;
  const pixels = naturalWidth * naturalHeight;
  const larger = Math.max(1, SMALLEST_SIDE / Math.max(naturalWidth, naturalHeight));
  const scale = pixels > MOST_PIXELS ? Math.sqrt(MOST_PIXELS / pixels) : larger;
  const width = Math.round(naturalWidth * scale);
  const height = Math.round(naturalHeight * scale);
  const size = Math.round(Math.min(Math.max(width / 34, 16), 34));
  const lines = wrapped(turn, newCanvas(1, 1).getContext("2d"), size, width - 2 * size);
  const canvas = newCanvas(width, height + 2 * size + lines.length * 1.75 * size);
  const context = canvas.getContext("2d");
  context.fillStyle = PAPER;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, width, height);
  drawMasks(context, turn.phrases, scale, Math.max(width, height), size);
  lines.forEach((line, row) => drawLine(context, line, height + (1.9 + 1.75 * row) * size, size));
  return canvas;
}

function drawMasks(context, phrases, scale, side, size) {
  const seen = phrases.filter((phrase) => phrase.area > 0);
  seen.sort((one, other) => other.area - one.area);
  for (const phrase of seen) {
    const mask = drawMask(phrase, scale, Math.max(side / 320, 1));
    context.drawImage(mask.layer, mask.left, mask.top);
  }
  const radius = 0.68 * size;
  for (const phrase of seen) {
    const { x, y } = badgePlace(phrase, radius / scale);
    context.beginPath();
    context.arc(x * scale, y * scale, radius, 0, 2 * Math.PI);
    context.fillStyle = phrase.colour;
    context.strokeStyle = "white";
    context.lineWidth = size / 9;
    context.fill();
    context.stroke();
    context.font = `bold ${0.85 * size}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillStyle = phrase.onColour;
    context.fillText(phrase.number, x * scale, y * scale);
  }
}

/** The answer in lines of pieces {text, phrase, left, width}. */
function wrapped(turn, context, size, room) {
  context.font = `${size}px system-ui, sans-serif`;
  const lines = [[]];
  let left = 0;
  for (const { text, phrase } of pieces(turn)) {
    for (const word of text.match(/\s+|\S+/g) ?? []) {
      const width = context.measureText(word).width;
      if (left + width > room && left > 0) {
        lines.push([]);
        left = 0;
        if (!word.trim()) continue;
      }
      lines.at(-1).push({ text: word, phrase, left: left + size, width });
      left += width;
    }
  }
  return lines;
}

/** The text, parted where phrases begin and end. */
function pieces(turn) {
  const letters = [...turn.text];
  const found = [];
  let done = 0;
  const ordered = [...turn.phrases].sort((one, other) => one.start - other.start);
  for (const phrase of ordered) {
    if (phrase.start < done) continue;
    found.push({ text: letters.slice(done, phrase.start).join(""), phrase: null });
    found.push({ text: letters.slice(phrase.start, phrase.end).join(""), phrase });
    done = phrase.end;
  }
  found.push({ text: letters.slice(done).join(""), phrase: null });
  return found;
}

function drawLine(context, line, middle, size) {
  context.font = `${size}px system-ui, sans-serif`;
  context.textAlign = "left";
  context.textBaseline = "middle";
  for (const { text, phrase, left, width } of line) {
    if (phrase !== null) {
      context.globalAlpha = 0.3;
      context.fillStyle = phrase.colour;
      context.fillRect(left, middle - 0.68 * size, width, 1.36 * size);
      context.globalAlpha = 1;
      context.fillRect(left, middle + 0.54 * size, width, 0.14 * size);
    }
    context.fillStyle = INK;
    context.fillText(text, left, middle);
  }
}
