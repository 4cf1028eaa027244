// Draw one mask as flmm/answers/overlay.py does: a translucent fill and a contour with a halo.

import { decodeBox } from "./rle.js";

const FILL_OPACITY = 0.4;
/** Of a highlighted mask, so that the picture shows through. */
const HIGHLIGHTED_FILL_OPACITY = 0.08;
const HALO_OPACITY = 0.85;
/** The blurred mask is quantised to 0 ... MAX_LEVEL; colours are looked up by level. */
const MAX_LEVEL = 1023;
const OPAQUE_BLACK = 0xff000000;

/**
 * Draw a phrase's mask at a scale, on canvases that cover its box and a margin.
 *
 * Returns {layer, highlighted, stencil, left, top, width, height} in pixels of the scaled picture;
 * `highlighted` has almost no fill, `stencil` is the mask alone, opaque. null if the mask is empty.
 */
export function drawMask(phrase, scale, lineWidth) {
  if (phrase.area === 0) return null;
  const margin = Math.ceil(4 * lineWidth) + 4;
  const [x0, y0, x1, y1] = phrase.box;
  const left = Math.floor(x0 * scale) - margin;
  const top = Math.floor(y0 * scale) - margin;
  const width = Math.ceil(x1 * scale) + margin - left;
  const height = Math.ceil(y1 * scale) + margin - top;
  const mask = scaleMask(phrase, scale, left, top, width, height);
  const sigma = Math.max(lineWidth * 0.6, 0.5);
  const ramp = blur(mask, width, height, Math.max(Math.round(sigma), 1));
  const applyColours = (values, colours) => {
    const image = new ImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    for (let index = 0; index < pixels.length; index++) {
      pixels[index] = colours[Math.round(values[index] * MAX_LEVEL)];
    }
    return imageDataToCanvas(image);
  };
  const colour = parseColour(phrase.colour);
  const fillColours = buildColourTable(colour, sigma, lineWidth, FILL_OPACITY);
  const highlightColours = buildColourTable(colour, sigma, lineWidth, HIGHLIGHTED_FILL_OPACITY);
  const stencilColours = new Uint32Array(MAX_LEVEL + 1).fill(OPAQUE_BLACK, MAX_LEVEL);
  return {
    layer: applyColours(ramp, fillColours),
    highlighted: applyColours(ramp, highlightColours),
    stencil: applyColours(mask, stencilColours),
    left, top, width, height,
  };
}

/** Compute the colour at each level of the blurred mask, as ImageData's bytes (ABGR). */
function buildColourTable(colour, sigma, lineWidth, fillOpacity) {
  const bytes = new Uint8ClampedArray(4 * (MAX_LEVEL + 1));
  for (let level = 1; level <= MAX_LEVEL; level++) {
    // The inverse logistic function turns the blurred value into the distance to the edge.
    const value = Math.min(Math.max(level / MAX_LEVEL, 0.002), 0.998);
    const distance = (sigma / 1.702) * Math.log(value / (1 - value));
    const fill = fillOpacity * clampToUnit(distance + 0.5);
    const halo = HALO_OPACITY * clampToUnit(0.9 * lineWidth + 0.5 - Math.abs(distance));
    const contour = clampToUnit(0.5 * lineWidth + 0.5 - Math.abs(distance));
    writeBlendedColour(bytes, 4 * level, colour, fill, halo, contour);
  }
  return new Uint32Array(bytes.buffer);
}

/** Parse "#rrggbb" into [red, green, blue]. */
export function parseColour(colour) {
  return [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));
}

export function createCanvas(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(Math.round(width), 1);
  canvas.height = Math.max(Math.round(height), 1);
  return canvas;
}

export function imageDataToCanvas(image) {
  const canvas = createCanvas(image.width, image.height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function clampToUnit(value) {
  return Math.min(Math.max(value, 0), 1);
}

/** Blend fill, white halo and contour, in this order, into one RGBA colour at `offset`. */
function writeBlendedColour(data, offset, colour, fill, halo, contour) {
  const whiteShare = halo * (1 - contour);
  const colourShare = contour + fill * (1 - halo) * (1 - contour);
  const alpha = whiteShare + colourShare;
  if (alpha === 0) return;
  for (let channel = 0; channel < 3; channel++) {
    data[offset + channel] = (255 * whiteShare + colour[channel] * colourShare) / alpha;
  }
  data[offset + 3] = 255 * alpha;
}

/** Scale the mask into the window at (left, top), row by row, 0 or 1 a pixel. */
function scaleMask(phrase, scale, left, top, width, height) {
  const [x0, y0, x1, y1] = phrase.box;
  const pixels = decodeBox(phrase.runEnds, phrase.mask.size[0], phrase.box);
  const unscaled = new ImageData(x1 - x0, y1 - y0);
  pixels.forEach((value, index) => (unscaled.data[4 * index + 3] = 255 * value));
  const context = createCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  const target = [x0 * scale - left, y0 * scale - top, (x1 - x0) * scale, (y1 - y0) * scale];
  context.drawImage(imageDataToCanvas(unscaled), ...target);
  const { data } = context.getImageData(0, 0, width, height);
  const mask = new Float32Array(width * height);
  for (let index = 0; index < mask.length; index++) mask[index] = data[4 * index + 3] > 127 ? 1 : 0;
  return mask;
}

/** Blur with two box filters in each direction, which is close to a Gaussian. */
function blur(values, width, height, radius) {
  let result = values;
  for (let pass = 0; pass < 2; pass++) {
    result = boxFilter(result, height, width, width, 1, radius);
    result = boxFilter(result, width, height, 1, width, radius);
  }
  return result;
}

/** Average over 2 radius + 1 values along each line; steps are distances in the array. */
function boxFilter(values, lines, length, lineStep, step, radius) {
  const means = new Float32Array(values.length);
  const weight = 1 / (2 * radius + 1);
  for (let line = 0; line < lines; line++) {
    const start = line * lineStep;
    let sum = 0;
    for (let at = 0; at < Math.min(radius, length); at++) sum += values[start + at * step];
    for (let at = 0; at < length; at++) {
      if (at + radius < length) sum += values[start + (at + radius) * step];
      if (at > radius) sum -= values[start + (at - radius - 1) * step];
      means[start + at * step] = sum * weight;
    }
  }
  return means;
}
