// The text of an answer; its phrases become buttons as they arrive.

/** Convert an offset in code points into one in UTF-16 code units. */
function toCodeUnits(text, codePoints) {
  let units = 0;
  for (let left = codePoints; left > 0; left--) units += text.codePointAt(units) > 0xffff ? 2 : 1;
  return units;
}

function countCodePoints(text) {
  return [...text].length;
}

/** Render an answer into `root`. Offsets count code points, as the server's do. */
export class AnswerText {
  constructor(root) {
    this.root = root;
    this.length = 0;
    /** The text nodes outside buttons: {node, start}, start in code points of the answer. */
    this.textNodes = [];
    /** Phrase to button. */
    this.buttons = new Map();
  }

  append(text) {
    const last = this.textNodes.find(({ node }) => node === this.root.lastChild);
    if (last) {
      last.node.appendData(text);
    } else {
      const node = document.createTextNode(text);
      this.root.append(node);
      this.textNodes.push({ node, start: this.length });
    }
    this.length += countCodePoints(text);
  }

  /** Turn the phrase's words into a button and return it; null if another button has them. */
  addPhraseButton(phrase) {
    const found = this.textNodes.find(({ node, start }) => {
      return start <= phrase.start && phrase.end <= start + countCodePoints(node.data);
    });
    if (found === undefined) return null;
    const { node, start } = found;
    const words = node.splitText(toCodeUnits(node.data, phrase.start - start));
    const rest = words.splitText(toCodeUnits(words.data, phrase.end - phrase.start));
    const button = document.createElement("button");
    button.type = "button";
    button.className = "phrase";
    if (phrase.number === null) button.classList.add("absent");
    else button.dataset.number = phrase.number;
    button.style.setProperty("--colour", phrase.colour);
    words.replaceWith(button);
    button.append(words);
    this.textNodes.push({ node: rest, start: phrase.end });
    this.buttons.set(phrase, button);
    return button;
  }
}
