// The dialog that asks the user for the server's API key.

import { byId } from "./dom.js";
import { text } from "./texts.js";

/** The promise of the open dialog, or null. */
let openPrompt = null;

/** Ask for the key; resolves to null if cancelled. Concurrent calls share one dialog. */
export function promptForKey(wasRejected) {
  openPrompt ??= showDialog(wasRejected).finally(() => (openPrompt = null));
  return openPrompt;
}

function showDialog(wasRejected) {
  const dialog = byId("key");
  byId("key-note").textContent = text(wasRejected ? "keyRejected" : "keyKept");
  byId("key-text").value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    const finish = (key) => {
      resolve(key);
      dialog.close();
    };
    byId("key-form").onsubmit = (event) => {
      event.preventDefault();
      finish(byId("key-text").value.trim() || null);
    };
    byId("key-cancel").onclick = () => finish(null);
    dialog.oncancel = () => finish(null);
  });
}
