// The page's shared state, and events about its changes.

/**
 * pictures: those of the conversation, [{url, name, width, height, isBundled}]; url is a data URL,
 *   width and height are the user's file's, of which the URL may hold a smaller copy.
 * picture: the shown one, or null.
 * turns: the conversation, oldest first: questions, phrases to find and texts, with their results.
 * shownTurn: the turn whose masks are on the picture, or null.
 * highlighted: the phrase of the shown turn under the pointer or the focus, or null.
 * selected: the phrase of the shown turn that was clicked, or null.
 */
export const state = {
  pictures: [], picture: null, turns: [], shownTurn: null, highlighted: null, selected: null,
};

const listeners = new Map();

/**
 * Call back at each of the named events.
 *
 * "conversation": another conversation. "picture" and "shownTurn": another picture or turn is
 * shown. "turn": a turn got a phrase or ended. "highlighted": the highlighted or selected phrase
 * changed. "view": another view.
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

/** Set the conversation; without pictures, that is the start screen. */
export function setConversation(pictures, turns) {
  Object.assign(state, {
    pictures, turns, picture: pictures[0] ?? null, shownTurn: null, highlighted: null, selected: null,
  });
  for (const name of ["conversation", "picture", "shownTurn", "highlighted"]) notify(name);
}

/** Show one of the conversation's pictures. */
export function showPicture(picture) {
  if (state.picture === picture) return;
  state.picture = picture;
  notify("picture");
  notify("highlighted");
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
  if (phrase !== null) showPicture(state.pictures[phrase.picture]);
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

/** List the shown turn's phrases on the shown picture. */
export function shownPhrases() {
  const index = state.pictures.indexOf(state.picture);
  return state.shownTurn?.phrases.filter((phrase) => phrase.picture === index) ?? [];
}
