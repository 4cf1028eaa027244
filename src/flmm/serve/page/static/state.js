// The page's shared state, and events about its changes.

/**
 * picture: {url, name, width, height, isBundled} or null; url is a data URL.
 * turns: the conversation, oldest first: questions, and phrases to find, with their results.
 * shownTurn: the turn whose masks are on the picture, or null.
 * highlighted: the phrase of the shown turn under the pointer or the focus, or null.
 * selected: the phrase of the shown turn that was clicked, or null.
 */
export const state = {
  picture: null, turns: [], shownTurn: null, highlighted: null, selected: null,
};

const listeners = new Map();

/**
 * Call back at each of the named events.
 *
 * "picture" and "shownTurn": another picture, another shown turn. "turn": a turn got a phrase or
 * ended. "highlighted": the highlighted or selected phrase changed. "view": another view.
 */
export function subscribe(names, callback) {
  for (const name of names) {
    if (!listeners.has(name)) listeners.set(name, []);
    listeners.get(name).push(callback);
  }
}

/** Call the event's listeners, in the order in which they subscribed. */
export function notify(name) {
  for (const callback of listeners.get(name) ?? []) callback();
}

/** Set the picture and start a new conversation; null returns to the start screen. */
export function setPicture(picture) {
  Object.assign(state, {
    picture, turns: [], shownTurn: null, highlighted: null, selected: null,
  });
  for (const name of ["picture", "shownTurn", "highlighted"]) notify(name);
}

/** Show a turn's masks; nothing of it is highlighted or selected. */
export function showTurn(turn) {
  if (state.shownTurn === turn) return;
  Object.assign(state, { shownTurn: turn, highlighted: null, selected: null });
  notify("shownTurn");
  notify("highlighted");
}

/** Highlight a phrase while pointer or focus are on it; null falls back to the selected one. */
export function highlight(phrase) {
  if (state.highlighted === phrase) return;
  state.highlighted = phrase;
  notify("highlighted");
}

/** Select a phrase, or deselect it if it is selected; it stays highlighted meanwhile. */
export function selectPhrase(phrase) {
  state.selected = state.selected === phrase ? null : phrase;
  notify("highlighted");
}

/** Return the phrase to highlight, or null: a pointer or focus outranks the selection. */
export function highlightedPhrase() {
  return state.highlighted ?? state.selected;
}
