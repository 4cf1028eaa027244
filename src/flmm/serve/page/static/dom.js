// Helpers for the document. Text is set with textContent, so it is never parsed as HTML.

export function byId(id) {
  return document.getElementById(id);
}

export function createElement(tagName, className = "", text = "") {
  const created = document.createElement(tagName);
  created.className = className;
  created.textContent = text;
  return created;
}

/** Show a line above the input; a live region, so that screen readers read it as well. */
export function showStatus(text, isError = false) {
  const line = byId("status");
  line.textContent = text;
  line.classList.toggle("problem", isError);
}

/** Set the text of an invisible live region, for screen readers alone. */
export function announce(text) {
  byId("announcement").textContent = text;
}
