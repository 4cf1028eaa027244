// Load a picture: a bundled one, or a file that is chosen, dropped or pasted.

import { byId, createElement, showStatus } from "./dom.js";
import { setPicture, state, subscribe } from "./state.js";

/** The media types that the server reads; other pictures are converted to PNG here. */
const SERVER_MEDIA_TYPES = ["image/png", "image/jpeg", "image/webp", "image/gif"];

/** Read a file and make it the current picture; show an error if it is no picture. */
async function loadPicture(file, isBundled = false) {
  try {
    const image = await decodeImage(URL.createObjectURL(file));
    const { naturalWidth: width, naturalHeight: height } = image;
    const url = SERVER_MEDIA_TYPES.includes(file.type) ? await readDataUrl(file) : encodePng(image);
    URL.revokeObjectURL(image.src);
    setPicture({ url, name: file.name || "pasted picture", width, height, isBundled });
    byId("words").focus({ preventScroll: true });
  } catch {
    showError(`${file.name || "That"} is no picture that this browser can read.`);
  }
}

async function decodeImage(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  if (!image.naturalWidth) throw new Error("no size");
  return image;
}

/** Encode an image as PNG; returns a data URL. */
function encodePng(image) {
  const canvas = createElement("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  canvas.getContext("2d").drawImage(image, 0, 0);
  return canvas.toDataURL("image/png");
}

function readDataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

/** Show an error on the start screen and in the conversation; only one of them is visible. */
function showError(text) {
  const line = byId("complaint");
  line.textContent = text;
  showStatus(text, true);
}

async function loadBundledPicture({ url, title, name }) {
  try {
    const blob = await (await fetch(url)).blob();
    await loadPicture(new File([blob], name, { type: blob.type }), true);
  } catch {
    showError(`${title} could not be fetched. Is the server still running?`);
  }
}

function addBundledPicture(picture) {
  const button = createElement("button");
  button.type = "button";
  const image = createElement("img");
  Object.assign(image, { src: picture.url, alt: "", width: 160, height: 160, decoding: "async" });
  button.append(image, createElement("span", "", picture.title));
  button.addEventListener("click", () => loadBundledPicture(picture));
  const item = createElement("li");
  item.append(button);
  byId("bundled").append(item);
}

/**
 * Connect all ways of input; pictures: the bundled ones, [{url, title, name}]; notice: what is said
 * about others, or empty.
 */
export function setUpPictureInput(pictures, notice) {
  pictures.forEach(addBundledPicture);
  const line = byId("notice");
  if (notice) line.textContent = `${notice[0].toUpperCase()}${notice.slice(1)}.`;
  subscribe(["picture"], () => {
    line.hidden = !notice || state.picture === null || state.picture.isBundled;
  });
  const file = byId("file");
  byId("open").addEventListener("click", () => file.click());
  file.addEventListener("change", () => {
    if (file.files.length) loadPicture(file.files[0]);
    file.value = "";
  });
  document.addEventListener("paste", (event) => {
    const [pasted] = event.clipboardData.files;
    if (!pasted) return;
    event.preventDefault();
    loadPicture(pasted);
  });
  document.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    document.body.classList.remove("dropping");
    const [dropped] = event.dataTransfer.files;
    if (!dropped) return;
    event.preventDefault();
    loadPicture(dropped);
  });
}
