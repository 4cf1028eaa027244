// A picture with masks over it that can be highlighted, named and clicked.

import { badgeRadius, findBadgePosition } from "./badge_position.js";
import { createElement } from "./dom.js";
import { createCanvas, drawMask } from "./mask_drawing.js";
import { isInside } from "./rle.js";
import { text } from "./texts.js";

/** Height by width beyond which a picture cannot be seen whole and stay in view. */
const MAX_TALLNESS = 3;

export class MaskedPicture {
  /**
   * picture: {url, name, width, height}.
   * canvasSide: the longer side, in pixels, at which masks are drawn; CSS scales them.
   * onHighlight(phrase or null): called when pointer or focus move to a phrase or away.
   * onSelect(phrase): called when a mask or badge is clicked.
   * hasBadges: whether masks have numbered buttons.
   */
  constructor(picture, canvasSide, { onHighlight, onSelect, hasBadges = true }) {
    Object.assign(this, { picture, canvasSide, onHighlight, onSelect, hasBadges });
    this.scale = canvasSide / Math.max(picture.width, picture.height);
    /** Phrase to {phrase, mask, canvas, nodes}, or to null if its mask is empty. */
    this.drawings = new Map();
    const isTall = picture.height > MAX_TALLNESS * picture.width;
    this.root = createElement("div", isTall ? "masked tall" : "masked");
    this.root.style.aspectRatio = `${picture.width} / ${picture.height}`;
    this.root.style.setProperty("--ratio", picture.width / picture.height);
    const image = createElement("img");
    image.src = picture.url;
    image.alt = picture.name;
    image.draggable = false;
    /** Darkens everything but the highlighted mask. */
    this.shade = createCanvas(picture.width * this.scale, picture.height * this.scale);
    this.shade.className = "shade";
    /** The name of the phrase under the pointer. */
    this.tooltip = createElement("div", "name");
    this.tooltip.hidden = true;
    this.root.append(image, this.shade, this.tooltip);
    this.root.addEventListener("pointermove", (event) => this.handlePointerMove(event));
    this.root.addEventListener("pointerleave", () => this.handlePointerLeave());
    this.root.addEventListener("click", (event) => this.handleClick(event));
    this.root.addEventListener("keydown", (event) => this.handleKeyDown(event));
  }

  /** Show the masks of exactly these phrases; those that are drawn already are kept. */
  show(phrases) {
    for (const [phrase, drawing] of this.drawings) {
      if (phrases.includes(phrase)) continue;
      drawing?.nodes.forEach((node) => node.remove());
      this.drawings.delete(phrase);
    }
    for (const phrase of phrases) {
      if (!this.drawings.has(phrase)) this.drawings.set(phrase, this.drawPhrase(phrase));
    }
    // Small masks lie over large ones.
    const order = [...this.drawings.values()].filter(Boolean);
    order.sort((one, other) => other.phrase.area - one.phrase.area);
    order.forEach((drawing, rank) => (drawing.canvas.style.zIndex = rank + 1));
    this.setTabStop(this.badges()[0]);
  }

  drawPhrase(phrase) {
    const lineWidth = Math.max(this.canvasSide / 320, 1.5);
    const mask = drawMask(phrase, this.scale, lineWidth);
    if (mask === null) return null;
    const canvas = mask.layer;
    canvas.className = "layer";
    const toPercent = (value, whole) => `${(100 * value) / whole}%`;
    canvas.style.left = toPercent(mask.left, this.shade.width);
    canvas.style.top = toPercent(mask.top, this.shade.height);
    canvas.style.width = toPercent(mask.width, this.shade.width);
    canvas.style.height = toPercent(mask.height, this.shade.height);
    const nodes = [canvas];
    if (this.hasBadges) nodes.push(this.createBadge(phrase));
    this.root.append(...nodes);
    return { phrase, mask, canvas, nodes };
  }

  createBadge(phrase) {
    const position = findBadgePosition(phrase, badgeRadius(this.picture));
    const button = createElement("button", "badge");
    button.type = "button";
    button.textContent = phrase.number;
    button.setAttribute("aria-label", text("badge", phrase));
    button.style.setProperty("--colour", phrase.colour);
    button.style.setProperty("--text-colour", phrase.textColour);
    button.style.left = `${(100 * position.x) / this.picture.width}%`;
    button.style.top = `${(100 * position.y) / this.picture.height}%`;
    button.addEventListener("focus", () => this.onHighlight(phrase));
    button.addEventListener("blur", () => this.onHighlight(null));
    button.addEventListener("click", (event) => {
      event.stopPropagation();
      this.onSelect(phrase);
    });
    return button;
  }

  /** Show one phrase's mask bright and darken the rest; null shows all alike. */
  highlight(phrase) {
    const highlighted = phrase && this.drawings.get(phrase);
    this.root.classList.toggle("lifting", Boolean(highlighted));
    for (const drawing of this.drawings.values()) {
      drawing?.nodes.forEach((node) => node.classList.toggle("lifted", drawing === highlighted));
    }
    if (!highlighted) return;
    const { mask } = highlighted;
    const context = this.shade.getContext("2d");
    context.globalCompositeOperation = "copy";
    context.fillStyle = "rgba(8, 10, 14, 0.66)";
    context.fillRect(0, 0, this.shade.width, this.shade.height);
    context.globalCompositeOperation = "destination-out";
    context.drawImage(mask.stencil, mask.left, mask.top);
    context.globalCompositeOperation = "source-over";
    context.drawImage(mask.highlighted, mask.left, mask.top);
  }

  /** Find the phrase with the smallest mask at a pointer event's position, or null. */
  findPhraseAt(event) {
    const frame = this.root.getBoundingClientRect();
    const x = Math.floor(((event.clientX - frame.left) / frame.width) * this.picture.width);
    const y = Math.floor(((event.clientY - frame.top) / frame.height) * this.picture.height);
    const { width, height } = this.picture;
    if (x < 0 || y < 0 || x >= width || y >= height) return null;
    const found = [...this.drawings.keys()].filter((one) => isInside(one.runEnds, height, x, y));
    return found.reduce((best, one) => (best && best.area <= one.area ? best : one), null);
  }

  handlePointerMove(event) {
    const phrase = this.findPhraseAt(event);
    this.root.classList.toggle("pointed", phrase !== null);
    this.tooltip.hidden = phrase === null;
    this.onHighlight(phrase);
    if (phrase === null) return;
    const frame = this.root.getBoundingClientRect();
    this.tooltip.textContent = phrase.text;
    this.tooltip.style.setProperty("--colour", phrase.colour);
    const x = event.clientX - frame.left;
    const maxLeft = frame.width - this.tooltip.offsetWidth - 8;
    this.tooltip.style.left = `${Math.max(Math.min(x + 14, maxLeft), 8)}px`;
    this.tooltip.style.top = `${Math.max(event.clientY - frame.top - 40, 8)}px`;
  }

  handlePointerLeave() {
    this.tooltip.hidden = true;
    this.root.classList.remove("pointed");
    this.onHighlight(null);
  }

  handleClick(event) {
    const phrase = this.findPhraseAt(event);
    if (phrase !== null) this.onSelect(phrase);
  }

  badges() {
    return [...this.root.querySelectorAll(".badge")];
  }

  /** Make one badge the only one that the Tab key reaches; arrow keys lead to the others. */
  setTabStop(badge) {
    for (const button of this.badges()) button.tabIndex = button === badge ? 0 : -1;
  }

  handleKeyDown(event) {
    const badges = this.badges();
    const index = badges.indexOf(document.activeElement);
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    if (index < 0 || !(event.key in steps)) return;
    event.preventDefault();
    const next = badges[(index + steps[event.key] + badges.length) % badges.length];
    this.setTabStop(next);
    next.focus();
  }
}
