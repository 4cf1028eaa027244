// What the page says about errors: plain words, and what to do.

import { ServerError } from "./api_client.js";
import { text } from "./texts.js";

/** Texts of the server's error codes; of any other code its message is shown. */
const TEXTS_BY_CODE = {
  context_length_exceeded: "tooLong",
  invalid_image: "damagedPicture",
  image_too_large: "largePicture",
  body_too_large: "largePicture",
};

/** Format an error as a sentence for the user; log those that are not the server's. */
export function formatError(error) {
  if (!(error instanceof ServerError)) {
    console.error(error);
    return text("pageFailed", { reason: error.message });
  }
  if (error.code === "busy") return text("busy", { count: error.retryAfter ?? 1 });
  if (error.code in TEXTS_BY_CODE) return text(TEXTS_BY_CODE[error.code]);
  const { message } = error;
  return message[0].toUpperCase() + message.slice(1) + (/[.?!]$/.test(message) ? "" : ".");
}
