// What the page shows, and who wants to know when it changes.

/**
 * picture: {url, name, width, height} or null; url is a data URL.
 * turns: questions and phrases with what came of them, oldest first.
 * shown: the turn whose masks are on the picture.
 * lifted: the phrase under the pointer or the focus, of the shown turn.
 * chosen: the phrase that was clicked, of the shown turn.
 */
export const state = { picture: null, turns: [], shown: null, lifted: null, chosen: null };

const listeners = new Map();

/** Calls back when one of the names is told: "picture", "turn", "shown", "lifted". */
export function listen(names, callback) {
  for (const name of names) {
    if (!listeners.has(name)) listeners.set(name, []);
    listeners.get(name).push(callback);
  }
}

export function tell(name) {
  for (const callback of listeners.get(name) ?? []) callback();
}

/** A new picture begins a new conversation; null goes back to the choice of pictures. */
export function setPicture(picture) {
  Object.assign(state, { picture, turns: [], shown: null, lifted: null, chosen: null });
  for (const name of ["picture", "shown", "lifted"]) tell(name);
}

export function show(turn) {
  if (state.shown === turn) return;
  Object.assign(state, { shown: turn, lifted: null, chosen: null });
  tell("shown");
  tell("lifted");
}

/** Brings a phrase forward; null lets the chosen one come forward again, or none. */
export function lift(phrase) {
  if (state.lifted === phrase) return;
  state.lifted = phrase;
  tell("lifted");
}

/** Keeps a phrase forward until it, or another, is chosen again. */
export function choose(phrase) {
  state.chosen = state.chosen === phrase ? null : phrase;
  tell("lifted");
}

/** The phrase that is forward, or null. */
export function forward() {
  return state.lifted ?? state.chosen;
}
