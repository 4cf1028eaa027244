// The overlay for download: the picture with its masks, and the answer below it.

import { badgeRadius, findBadgePosition, overlayScale } from "./badge_position.js";
import { createCanvas, drawMask } from "./mask_drawing.js";

// As in flmm/answers/overlay.py and legend.py.
const BACKGROUND = "#fcfcfa";
const TEXT_COLOUR = "#202124";

/**
 * Draw a turn's overlay on a new canvas.
 *
 * image: the picture, loaded. picture: {width, height}, of the user's file. phrases: those on it.
 */
export function drawOverlay(image, picture, turn, phrases) {
  const { scale, fontSize } = overlayScale(picture);
  const width = Math.round(picture.width * scale);
  const height = Math.round(picture.height * scale);
  const measuring = createCanvas(1, 1).getContext("2d");
  const lines = wrapLines(turn, measuring, fontSize, width - 2 * fontSize);
  const canvas = createCanvas(width, height + 2 * fontSize + lines.length * 1.75 * fontSize);
  const context = canvas.getContext("2d");
  context.fillStyle = BACKGROUND;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  drawPicture(context, image, picture, phrases);
  lines.forEach((line, row) => {
    drawLine(context, line, height + (1.9 + 1.75 * row) * fontSize, fontSize);
  });
  return canvas;
}

/** Draw a picture at its overlay's scale with the masks of phrases, and return the canvas. */
export function drawMaskedPicture(image, picture, phrases) {
  const { scale } = overlayScale(picture);
  const canvas = createCanvas(picture.width * scale, picture.height * scale);
  drawPicture(canvas.getContext("2d"), image, picture, phrases);
  return canvas;
}

/** Draw all masks, large ones first so that none hides a smaller one, then all badges. */
function drawPicture(context, image, picture, phrases) {
  const { scale, fontSize } = overlayScale(picture);
  const width = Math.round(picture.width * scale);
  const height = Math.round(picture.height * scale);
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(image, 0, 0, width, height);
  const visible = phrases.filter((phrase) => phrase.area > 0);
  visible.sort((one, other) => other.area - one.area);
  for (const phrase of visible) {
    const mask = drawMask(phrase, scale, Math.max(Math.max(width, height) / 320, 1));
    context.drawImage(mask.layer, mask.left, mask.top);
  }
  const radius = badgeRadius(picture) * scale;
  for (const phrase of visible) {
    const { x, y } = findBadgePosition(phrase, radius / scale);
    context.beginPath();
    context.arc(x * scale, y * scale, radius, 0, 2 * Math.PI);
    context.fillStyle = phrase.colour;
    context.strokeStyle = "white";
    context.lineWidth = fontSize / 9;
    context.fill();
    context.stroke();
    context.font = `bold ${0.85 * fontSize}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillStyle = phrase.textColour;
    context.fillText(phrase.number, x * scale, y * scale);
  }
}

/** Wrap the answer at a width; returns lines of words {text, phrase or null, left, width}. */
function wrapLines(turn, context, fontSize, maxWidth) {
  context.font = `${fontSize}px system-ui, sans-serif`;
  const lines = [[]];
  let left = 0;
  for (const { text, phrase } of splitAtPhrases(turn)) {
    for (const word of text.match(/\s+|\S+/g) ?? []) {
      const width = context.measureText(word).width;
      if (left + width > maxWidth && left > 0) {
        lines.push([]);
        left = 0;
        if (!word.trim()) continue;
      }
      lines.at(-1).push({ text: word, phrase, left: left + fontSize, width });
      left += width;
    }
  }
  return lines;
}

/** Split the answer where phrases begin and end: [{text, phrase or null}]. */
export function splitAtPhrases(turn) {
  const characters = [...turn.text];
  const runs = [];
  let end = 0;
  const ordered = [...turn.phrases].sort((one, other) => one.start - other.start);
  for (const phrase of ordered) {
    if (phrase.start < end || phrase.number === null) continue;
    runs.push({ text: characters.slice(end, phrase.start).join(""), phrase: null });
    runs.push({ text: characters.slice(phrase.start, phrase.end).join(""), phrase });
    end = phrase.end;
  }
  runs.push({ text: characters.slice(end).join(""), phrase: null });
  return runs;
}

/** Draw a line of words at the height `middle`; phrases are tinted and underlined. */
function drawLine(context, line, middle, fontSize) {
  context.font = `${fontSize}px system-ui, sans-serif`;
  context.textAlign = "left";
  context.textBaseline = "middle";
  for (const { text, phrase, left, width } of line) {
    if (phrase !== null) {
      context.globalAlpha = 0.3;
      context.fillStyle = phrase.colour;
      context.fillRect(left, middle - 0.68 * fontSize, width, 1.36 * fontSize);
      context.globalAlpha = 1;
      context.fillRect(left, middle + 0.54 * fontSize, width, 0.14 * fontSize);
    }
    context.fillStyle = TEXT_COLOUR;
    context.fillText(text, left, middle);
  }
}
