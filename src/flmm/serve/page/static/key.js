// Asks for the server's key where it wants one.

import { byId } from "./elements.js";

let asking = null;

/** The key that the user gives, or null; those who ask at the same time get the same one. */
export function askForKey(wasWrong) {
  asking ??= ask(wasWrong).finally(() => (asking = null));
  return asking;
}

function ask(wasWrong) {
  const dialog = byId("key");
  byId("key-note").textContent = wasWrong
    ? "The server does not take that key. Try another."
    : "It stays in this tab and is forgotten with it.";
  byId("key-text").value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    const end = (key) => {
      resolve(key);
      dialog.close();
    };
    byId("key-form").onsubmit = (event) => {
      event.preventDefault();
      end(byId("key-text").value.trim() || null);
    };
    byId("key-cancel").onclick = () => end(null);
    dialog.oncancel = () => end(null);
  });
}
