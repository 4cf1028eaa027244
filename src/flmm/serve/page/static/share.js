// An answer as one HTML file that needs nothing else: pictures with their masks, and the words.

import { drawMaskedPicture, splitAtPhrases } from "./overlay.js";
import { language } from "./texts.js";

const STYLE = `
body { max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #1b1d21; background: #fcfcfa;
  font: 1.1rem/1.8 system-ui, sans-serif; overflow-wrap: anywhere }
img { width: 100%; border-radius: 0.8rem }
h1 { font-size: 1.1rem; font-weight: 600 }
p { white-space: pre-wrap }
mark { padding: 0.1em 0.25em; border-bottom: 3px solid; border-radius: 0.3em; color: inherit }
`;
const JPEG_QUALITY = 0.9;

function escapeHtml(words) {
  const entities = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
  return words.replace(/[&<>"]/g, (character) => entities[character]);
}

/** Return the file's HTML; images: the turn's pictures, [{image, picture, phrases}]. */
export function buildAnswerPage(turn, images) {
  const figures = images.map(({ image, picture, phrases }) => {
    const canvas = drawMaskedPicture(image, picture, phrases);
    const url = canvas.toDataURL("image/jpeg", JPEG_QUALITY);
    return `<img src="${url}" alt="${escapeHtml(picture.name)}">`;
  });
  const words = splitAtPhrases(turn).map(({ text, phrase }) => {
    if (phrase === null) return escapeHtml(text);
    const style = `background: ${phrase.colour}44; border-color: ${phrase.colour}`;
    return `<mark style="${style}">${escapeHtml(text)}<sup>${phrase.number}</sup></mark>`;
  });
  const title = escapeHtml(turn.question);
  return `<!doctype html>
<html lang="${language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>${title}</title>
<style>${STYLE}</style>
</head>
<body>
<h1>${title}</h1>
${figures.join("\n")}
<p>${words.join("")}</p>
</body>
</html>
`;
}
