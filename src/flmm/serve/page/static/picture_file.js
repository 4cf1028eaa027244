// Read picture files: decode them, and shrink those that are larger than the server takes.

import { createElement } from "./dom.js";
import { text } from "./texts.js";

/** The media types that the server reads; other pictures are converted here. */
const SERVER_MEDIA_TYPES = ["image/png", "image/jpeg", "image/webp", "image/gif"];
/** The largest canvas of mobile Safari. */
const MAX_CANVAS_PIXELS = 16_000_000;
/** Characters of a data URL for each byte of the file. */
const BASE64_GROWTH = 4 / 3;
const JPEG_QUALITY = 0.92;

/** {pixels, bytes} that the server takes. */
let limits = { pixels: Infinity, bytes: Infinity };

export function setLimits(serverLimits) {
  limits = serverLimits;
}

/**
 * Read a file as a picture: {url, name, width, height, isBundled}.
 *
 * The URL has a smaller copy of a picture that is too large for the server; width and height are
 * the file's own, and masks are scaled to them. Throws if the browser cannot read it.
 */
export async function readPicture(file, isBundled = false) {
  const image = await decodeImage(URL.createObjectURL(file));
  const { naturalWidth: width, naturalHeight: height } = image;
  const isSmall = width * height <= limits.pixels && file.size * BASE64_GROWTH < 0.9 * limits.bytes;
  const isReadable = SERVER_MEDIA_TYPES.includes(file.type);
  let url;
  if (isReadable && isSmall) url = await readDataUrl(file);
  else {
    const pixels = Math.min(limits.pixels, MAX_CANVAS_PIXELS);
    url = encodeImage(image, pixels, isSmall ? "image/png" : "image/jpeg");
  }
  URL.revokeObjectURL(image.src);
  return { url, name: file.name || text("pastedPicture"), width, height, isBundled };
}

/** Return a picture whose URL has a copy of at most so many pixels. */
export async function shrinkPicture(picture, pixels) {
  return { ...picture, url: encodeImage(await decodeImage(picture.url), pixels, "image/jpeg") };
}

async function decodeImage(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  if (!image.naturalWidth) throw new Error("no size");
  return image;
}

/** Encode an image, on white, with at most so many pixels; returns a data URL. */
function encodeImage(image, maxPixels, mediaType) {
  const pixels = image.naturalWidth * image.naturalHeight;
  const scale = Math.min(1, Math.sqrt(maxPixels / pixels));
  const canvas = createElement("canvas");
  canvas.width = Math.max(Math.floor(image.naturalWidth * scale), 1);
  canvas.height = Math.max(Math.floor(image.naturalHeight * scale), 1);
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL(mediaType, JPEG_QUALITY);
}

function readDataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
