// How a picture comes in: bundled, chosen, dropped or pasted.

import { byId, element, report } from "./elements.js";
import { setPicture } from "./state.js";

/** What the server takes; anything else that the browser can show is made a PNG here. */
const TAKEN = ["image/png", "image/jpeg", "image/webp", "image/gif"];

/** Makes a file the picture that is talked about. */
export async function take(file) {
  try {
    const opened = await loaded(URL.createObjectURL(file));
    const { naturalWidth: width, naturalHeight: height } = opened;
    const url = TAKEN.includes(file.type) ? await dataUrl(file) : redrawn(opened);
    URL.revokeObjectURL(opened.src);
    setPicture({ url, name: file.name || "pasted picture", width, height });
    byId("words").focus({ preventScroll: true });
  } catch {
    complain(`${file.name || "That"} is no picture that this browser can read.`);
  }
}

async function loaded(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  if (!image.naturalWidth) throw new Error("no size");
  return image;
}

function redrawn(image) {
  const canvas = element("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  canvas.getContext("2d").drawImage(image, 0, 0);
  return canvas.toDataURL("image/png");
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

function complain(text) {
  const line = byId("complaint");
  line.textContent = text;
  report(text, true);
}

async function takeBundled({ url, title, name }) {
  try {
    const blob = await (await fetch(url)).blob();
    await take(new File([blob], name, { type: blob.type }));
  } catch {
    complain(`${title} could not be fetched. Is the server still running?`);
  }
}

function offer(picture) {
  const button = element("button");
  button.type = "button";
  const image = element("img");
  Object.assign(image, { src: picture.url, alt: "", width: 160, height: 160, decoding: "async" });
  button.append(image, element("span", "", picture.title));
  button.addEventListener("click", () => takeBundled(picture));
  const item = element("li");
  item.append(button);
  byId("bundled").append(item);
}

export function setUpChoosing(pictures) {
  pictures.forEach(offer);
  const file = byId("file");
  byId("open").addEventListener("click", () => file.click());
  file.addEventListener("change", () => {
    if (file.files.length) take(file.files[0]);
    file.value = "";
  });
  document.addEventListener("paste", (event) => {
    const [pasted] = event.clipboardData.files;
    if (!pasted) return;
    event.preventDefault();
    take(pasted);
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
    take(dropped);
  });
}
