// An answer's text, in which phrases become buttons as they are found.

/** The place in a JavaScript text of its so-many-th code point. */
function unitsOf(text, points) {
  let units = 0;
  for (let left = points; left > 0; left--) units += text.codePointAt(units) > 0xffff ? 2 : 1;
  return units;
}

function pointsIn(text) {
  return [...text].length;
}

export class AnswerText {
  constructor(root) {
    this.root = root;
    this.length = 0;
    /** Stretches of plain text: {node, start}, start in code points of the whole. */
    this.runs = [];
    this.buttons = new Map();
  }

  append(text) {
    const last = this.runs.find(({ node }) => node === this.root.lastChild);
    if (last) {
      last.node.appendData(text);
    } else {
      const node = document.createTextNode(text);
      this.root.append(node);
      this.runs.push({ node, start: this.length });
    }
    this.length += pointsIn(text);
  }

  /** Makes the phrase's words a button and returns it; null where they are one's already. */
  mark(phrase) {
    const run = this.runs.find(
      ({ node, start }) => start <= phrase.start && phrase.end <= start + pointsIn(node.data),
    );
    if (run === undefined) return null;
    const { node, start } = run;
    const said = node.splitText(unitsOf(node.data, phrase.start - start));
    const after = said.splitText(unitsOf(said.data, phrase.end - phrase.start));
    const button = document.createElement("button");
    button.type = "button";
    button.className = "phrase";
    button.dataset.number = phrase.number;
    button.style.setProperty("--colour", phrase.colour);
    said.replaceWith(button);
    button.append(said);
    this.runs.push({ node: after, start: phrase.end });
    this.buttons.set(phrase, button);
    return button;
  }
}
