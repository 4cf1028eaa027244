// Ways to a picture: a bundled one, or a file that is chosen, dropped or pasted.

import { focusInput } from "./composer.js";
import { byId, createElement, showStatus } from "./dom.js";
import { readPicture } from "./picture_file.js";
import { state, subscribe } from "./state.js";
import { addPicture, openTalk } from "./talks.js";
import { text } from "./texts.js";

/** Whether the next picture joins the conversation instead of beginning one. */
let joinsTalk = false;

/** Read a file and show it; say so if it is no picture. */
async function loadPicture(file, isBundled = false) {
  const joins = joinsTalk && state.picture !== null;
  joinsTalk = false;
  let picture;
  try {
    picture = await readPicture(file, isBundled);
  } catch {
    showError(text("noPicture", { name: file.name || text("pastedPicture") }));
    return;
  }
  if (joins) addPicture(picture);
  else openTalk([picture]);
  focusInput();
}

/** Show an error on the start screen and in the conversation; only one of them is visible. */
function showError(message) {
  byId("complaint").textContent = message;
  showStatus(message, true);
}

async function loadBundledPicture({ url, name }) {
  try {
    const blob = await (await fetch(url)).blob();
    await loadPicture(new File([blob], name, { type: blob.type }), true);
  } catch {
    showError(text("notFetched", { name: text(name) }));
  }
}

function offerBundledPicture(picture) {
  const button = createElement("button");
  button.type = "button";
  const image = createElement("img");
  Object.assign(image, { src: picture.thumbnail, alt: "", width: 160, height: 160 });
  button.append(image, createElement("span", "", text(picture.name)));
  button.addEventListener("click", () => loadBundledPicture(picture));
  const item = createElement("li");
  item.append(button);
  byId("bundled").append(item);
}

function chooseFile(joins) {
  joinsTalk = joins;
  byId("file").click();
}

/**
 * Connect all ways of input.
 *
 * pictures: the bundled ones, [{name, url, thumbnail}]. isEmbedded: whether the model knows only
 * their kind. maxPictures: of a conversation.
 */
export function setUpPictureInput(pictures, isEmbedded, maxPictures) {
  pictures.forEach(offerBundledPicture);
  byId("notice").textContent = text("notice");
  byId("other-ways").hidden = !matchMedia("(hover: hover)").matches;
  subscribe(["conversation"], () => {
    byId("add-picture").hidden = state.pictures.length >= maxPictures;
    byId("notice").hidden = !isEmbedded || state.pictures.every(({ isBundled }) => isBundled);
  });
  const file = byId("file");
  byId("open").addEventListener("click", () => chooseFile(false));
  byId("add-picture").addEventListener("click", () => chooseFile(true));
  file.addEventListener("change", () => {
    if (file.files.length) loadPicture(file.files[0]);
    file.value = "";
  });
  file.addEventListener("cancel", () => {
    joinsTalk = false;
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
