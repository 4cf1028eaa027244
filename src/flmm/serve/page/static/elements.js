// Small helps with the document. Text goes in as text, never as markup.

export function byId(id) {
  return document.getElementById(id);
}

export function element(kind, className = "", text = "") {
  const made = document.createElement(kind);
  made.className = className;
  made.textContent = text;
  return made;
}

/** Shows a line to the user, and reads it to those who listen. */
export function report(text, isProblem = false) {
  const line = byId("status");
  line.textContent = text;
  line.classList.toggle("problem", isProblem);
}

/** Reads a line to those who listen; it is not seen. */
export function announce(text) {
  byId("announcement").textContent = text;
}
