// What every client for Node must get from the server: the same as client_checks.py.

import { readFileSync } from "node:fs";

const [, , address, model, picture, answer] = process.argv;

export const MODEL = model;
export const BASE_URL = `${address}/v1`;
export const KEY = "any";
export const QUESTION = "What is in the picture?";
export const SECOND_QUESTION = "Is there a cat?";
export const SYSTEM = "You are a helpful assistant.";
export const PICTURE = readFileSync(picture);
export const DATA_URL = `data:image/png;base64,${PICTURE.toString("base64")}`;

const CHECKS = {
  text: "I see no picture.",
  picture: answer,
  stream: answer,
  history: "Yes, there is a cat on the left.",
  grounding: "a cat",
};

/** Runs the functions, and prints their outcomes as one line of JSON. */
export async function runChecks(functions) {
  const outcomes = {};
  for (const [name, expected] of Object.entries(CHECKS)) {
    if (!(name in functions)) {
      outcomes[name] = "–";
      continue;
    }
    try {
      const found = await functions[name]();
      const isRight = name === "grounding" ? found.includes(expected) : found === expected;
      outcomes[name] = isRight ? "yes" : `it said ${JSON.stringify(found)}`;
    } catch (error) {
      outcomes[name] = `${error.name}: ${error.message}`;
    }
  }
  console.log(JSON.stringify(outcomes));
}
