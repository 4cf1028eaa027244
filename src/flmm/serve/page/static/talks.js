// Conversations as entries of the browser's history, kept in this tab until it is closed.

import { preparePhrase, toReply } from "./phrases.js";
import { shrinkPicture } from "./picture_file.js";
import { notify, setConversation, showPicture, state, subscribe } from "./state.js";

const PREFIX = "flmm-talk-";
const PICTURES = "-pictures";
const TURNS = "-turns";
/** Pixels of the copies that are kept where the tab's storage has no room for the pictures. */
const KEPT_PIXELS = 1_000_000;

/** Id to {pictures, turns}; those of before a reload are only in sessionStorage. */
const talks = new Map();

function currentId() {
  return history.state?.talk ?? null;
}

/** Begin a conversation about pictures, as a new entry of the history. */
export function openTalk(pictures) {
  // Ids grow, so that the oldest can be found.
  const id = String(Date.now() + talks.size).padStart(16, "0");
  talks.set(id, { pictures, turns: [] });
  history.pushState({ talk: id }, "");
  showTalk();
  keepPictures();
}

/** Add a picture to the conversation. */
export function addPicture(picture) {
  state.pictures.push(picture);
  notify("conversation");
  showPicture(picture);
  keepPictures();
}

/** Go to the start screen, as a new entry of the history. */
export function openWelcome() {
  history.pushState({ talk: null }, "");
  showTalk();
}

/** Show the conversation of the history's entry, or the start screen. */
function showTalk() {
  const id = currentId();
  if (id !== null && !talks.has(id)) restoreTalk(id);
  const { pictures, turns } = talks.get(id) ?? { pictures: [], turns: [] };
  setConversation(pictures, turns);
}

/** Keep the conversation's pictures in sessionStorage; without room, those of the oldest go. */
async function keepPictures() {
  const key = currentId() + PICTURES;
  const { pictures } = state;
  if (pictures.length === 0 || store(key, pictures)) return;
  const copies = await Promise.all(pictures.map((each) => shrinkPicture(each, KEPT_PIXELS)));
  while (!store(key, copies)) {
    const [oldest] = Object.keys(sessionStorage).filter((kept) => kept.endsWith(PICTURES)).sort();
    if (oldest === undefined) return;
    sessionStorage.removeItem(oldest);
  }
}

function keepTurns() {
  if (state.pictures.length === 0) return;
  const turns = state.turns.map((turn) => {
    const { kind, question, picture, text, earlier, problem } = turn;
    // A turn that runs when the page is left is broken.
    const kept = turn.state === "running" ? "broken" : turn.state;
    const phrases = turn.phrases.map(toReply);
    return { kind, question, picture, text, earlier, problem, state: kept, phrases };
  });
  store(currentId() + TURNS, turns);
}

/** Store a value; returns whether there was room. */
function store(key, value) {
  try {
    sessionStorage.setItem(PREFIX + key, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

function restoreTalk(id) {
  const pictures = JSON.parse(sessionStorage.getItem(PREFIX + id + PICTURES));
  if (pictures === null) return;
  const kept = JSON.parse(sessionStorage.getItem(PREFIX + id + TURNS)) ?? [];
  // The tab may have been left before a picture that was added was kept.
  const turns = kept.filter((turn) => [turn, ...turn.phrases].every((one) => one.picture in pictures));
  for (const turn of turns) {
    const replies = turn.phrases;
    turn.phrases = [];
    for (const reply of replies) {
      const found = turn.phrases.filter((phrase) => phrase.number !== null).length;
      turn.phrases.push(preparePhrase(reply, found, pictures[reply.picture]));
    }
  }
  talks.set(id, { pictures, turns });
}

/** Follow the history, and show what this entry of it had before a reload. */
export function setUpTalks() {
  addEventListener("popstate", showTalk);
  addEventListener("pagehide", keepTurns);
  subscribe(["turn"], keepTurns);
  showTalk();
}
