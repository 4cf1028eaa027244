// Draws one mask as flmm's overlays do: a translucent fill, and a smooth outline with a halo.

import { pixelsIn } from "./run_lengths.js";

const FILL = 0.4;
/** Of a mask that is lifted, through which the picture itself is seen. */
const LIFTED_FILL = 0.08;
const HALO = 0.85;
const LEVELS = 1023;
const OPAQUE = 0xff000000;

/**
 * A mask at a scale: canvases as large as its box with a margin, and where they lie.
 *
 * Returns {layer, lifted, stencil, left, top, width, height} in pixels of the scaled picture;
 * `lifted` has hardly a fill, `stencil` is the bare shape. null where the mask is empty.
 */
export function drawMask(phrase, scale, line) {
  if (phrase.area === 0) return null;
  const margin = Math.ceil(4 * line) + 4;
  const [x0, y0, x1, y1] = phrase.box;
  const left = Math.floor(x0 * scale) - margin;
  const top = Math.floor(y0 * scale) - margin;
  const width = Math.ceil(x1 * scale) + margin - left;
  const height = Math.ceil(y1 * scale) + margin - top;
  const shape = scaledShape(phrase, scale, left, top, width, height);
  const sigma = Math.max(line * 0.6, 0.5);
  const ramp = blurred(shape, width, height, Math.max(Math.round(sigma), 1));
  const painted = (values, colours) => {
    const image = new ImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    for (let at = 0; at < pixels.length; at++) pixels[at] = colours[Math.round(values[at] * LEVELS)];
    return canvasOf(image);
  };
  const colour = channels(phrase.colour);
  const opaque = new Uint32Array(LEVELS + 1).fill(OPAQUE, LEVELS);
  return {
    layer: painted(ramp, coatsOf(colour, sigma, line, FILL)),
    lifted: painted(ramp, coatsOf(colour, sigma, line, LIFTED_FILL)),
    stencil: painted(shape, opaque),
    left, top, width, height,
  };
}

/** The colour at each level of the ramp across the edge, as ImageData's bytes (ABGR). */
function coatsOf(colour, sigma, line, filled) {
  const bytes = new Uint8ClampedArray(4 * (LEVELS + 1));
  for (let level = 1; level <= LEVELS; level++) {
    // The logistic function's inverse gives the distance to the edge; see flmm.overlay.
    const value = Math.min(Math.max(level / LEVELS, 0.002), 0.998);
    const inside = (sigma / 1.702) * Math.log(value / (1 - value));
    const fill = filled * unit(inside + 0.5);
    const halo = HALO * unit(0.9 * line + 0.5 - Math.abs(inside));
    const edge = unit(0.5 * line + 0.5 - Math.abs(inside));
    paint(bytes, 4 * level, colour, fill, halo, edge);
  }
  return new Uint32Array(bytes.buffer);
}

/** "#rrggbb" as three numbers. */
export function channels(colour) {
  return [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
}

export function newCanvas(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(Math.round(width), 1);
  canvas.height = Math.max(Math.round(height), 1);
  return canvas;
}

export function canvasOf(image) {
  const canvas = newCanvas(image.width, image.height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function unit(value) {
  return Math.min(Math.max(value, 0), 1);
}

/** The three coats, one over the other, as one translucent colour. */
function paint(data, at, colour, fill, halo, edge) {
  const whiteShare = halo * (1 - edge);
  const colourShare = edge + fill * (1 - halo) * (1 - edge);
  const alpha = whiteShare + colourShare;
  if (alpha === 0) return;
  for (let channel = 0; channel < 3; channel++) {
    data[at + channel] = (255 * whiteShare + colour[channel] * colourShare) / alpha;
  }
  data[at + 3] = 255 * alpha;
}

/** The mask at the scale, 0 or 1 a pixel. */
function scaledShape(phrase, scale, left, top, width, height) {
  const [x0, y0, x1, y1] = phrase.box;
  const pixels = pixelsIn(phrase.ends, phrase.mask.size[0], phrase.box);
  const exact = new ImageData(x1 - x0, y1 - y0);
  pixels.forEach((inside, at) => (exact.data[4 * at + 3] = 255 * inside));
  const context = newCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  const place = [x0 * scale - left, y0 * scale - top, (x1 - x0) * scale, (y1 - y0) * scale];
  context.drawImage(canvasOf(exact), ...place);
  const { data } = context.getImageData(0, 0, width, height);
  const shape = new Float32Array(width * height);
  for (let at = 0; at < shape.length; at++) shape[at] = data[4 * at + 3] > 127 ? 1 : 0;
  return shape;
}

/** Two passes of a moving mean each way, which is close to a Gaussian. */
function blurred(values, width, height, radius) {
  let result = values;
  for (let pass = 0; pass < 2; pass++) {
    result = moving(result, height, width, width, 1, radius);
    result = moving(result, width, height, 1, width, radius);
  }
  return result;
}

function moving(values, lines, length, lineStep, step, radius) {
  const means = new Float32Array(values.length);
  const share = 1 / (2 * radius + 1);
  for (let line = 0; line < lines; line++) {
    const start = line * lineStep;
    let sum = 0;
    for (let at = 0; at < Math.min(radius, length); at++) sum += values[start + at * step];
    for (let at = 0; at < length; at++) {
      if (at + radius < length) sum += values[start + (at + radius) * step];
      if (at > radius) sum -= values[start + (at - radius - 1) * step];
      means[start + at * step] = sum * share;
    }
  }
  return means;
}
