// A picture with masks on it that can be lifted, named and clicked.

import { badgePlace } from "./badge_place.js";
import { element } from "./elements.js";
import { drawMask, newCanvas } from "./mask_drawing.js";
import { isInside } from "./run_lengths.js";

export class MaskedPicture {
  /**
   * picture: {url, name, width, height}.
   * side: of the drawing's longer side, in pixels.
   * onLift(phrase or null) and onPick(phrase) hear of the pointer and the badges.
   */
  constructor(picture, side, { onLift, onPick, badges = true }) {
    Object.assign(this, { picture, side, onLift, onPick, badges });
    this.scale = side / Math.max(picture.width, picture.height);
    this.drawn = new Map();
    this.root = element("div", "masked");
    this.root.style.aspectRatio = `${picture.width} / ${picture.height}`;
    this.root.style.setProperty("--ratio", picture.width / picture.height);
    const image = element("img");
    image.src = picture.url;
    image.alt = picture.name;
    image.draggable = false;
    this.shade = newCanvas(picture.width * this.scale, picture.height * this.scale);
    this.shade.className = "shade";
    this.name = element("div", "name");
    this.name.hidden = true;
    this.root.append(image, this.shade, this.name);
    this.root.addEventListener("pointermove", (event) => this.point(event));
    this.root.addEventListener("pointerleave", () => this.leave());
    this.root.addEventListener("click", (event) => this.click(event));
    this.root.addEventListener("keydown", (event) => this.key(event));
  }

  /** Shows these phrases' masks; those that are there already stay. */
  show(phrases) {
    for (const [phrase, drawn] of this.drawn) {
      if (phrases.includes(phrase)) continue;
      drawn?.nodes.forEach((node) => node.remove());
      this.drawn.delete(phrase);
    }
    for (const phrase of phrases) {
      if (!this.drawn.has(phrase)) this.drawn.set(phrase, this.draw(phrase));
    }
    // Small masks over large ones.
    const order = [...this.drawn.values()].filter(Boolean);
    order.sort((one, other) => other.phrase.area - one.phrase.area);
    order.forEach((drawn, rank) => (drawn.canvas.style.zIndex = rank + 1));
    this.rove(this.buttons()[0]);
  }

  draw(phrase) {
    const line = Math.max(this.side / 320, 1.5);
    const mask = drawMask(phrase, this.scale, line);
    if (mask === null) return null;
    const canvas = mask.layer;
    canvas.className = "layer";
    const percent = (value, whole) => `${(100 * value) / whole}%`;
    canvas.style.left = percent(mask.left, this.shade.width);
    canvas.style.top = percent(mask.top, this.shade.height);
    canvas.style.width = percent(mask.width, this.shade.width);
    canvas.style.height = percent(mask.height, this.shade.height);
    const nodes = [canvas];
    if (this.badges) nodes.push(this.badge(phrase));
    this.root.append(...nodes);
    return { phrase, mask, canvas, nodes };
  }

  badge(phrase) {
    const place = badgePlace(phrase, 13 / this.scale);
    const button = element("button", "badge");
    button.type = "button";
    button.textContent = phrase.number;
    button.setAttribute("aria-label", `${phrase.number}, ${phrase.text}: ask about it`);
    button.style.setProperty("--colour", phrase.colour);
    button.style.setProperty("--on", phrase.onColour);
    button.style.left = `${(100 * place.x) / this.picture.width}%`;
    button.style.top = `${(100 * place.y) / this.picture.height}%`;
    button.addEventListener("focus", () => this.onLift(phrase));
    button.addEventListener("blur", () => this.onLift(null));
    button.addEventListener("click", (event) => {
      event.stopPropagation();
      this.onPick(phrase);
    });
    return button;
  }

  /** Brings one phrase's mask forward and lets the rest step back; null brings all back. */
  lift(phrase) {
    const lifted = phrase && this.drawn.get(phrase);
    this.root.classList.toggle("lifting", Boolean(lifted));
    for (const drawn of this.drawn.values()) {
      drawn?.nodes.forEach((node) => node.classList.toggle("lifted", drawn === lifted));
    }
    if (!lifted) return;
    const context = this.shade.getContext("2d");
    context.globalCompositeOperation = "copy";
    context.fillStyle = "rgba(8, 10, 14, 0.66)";
    context.fillRect(0, 0, this.shade.width, this.shade.height);
    context.globalCompositeOperation = "destination-out";
    context.drawImage(lifted.mask.stencil, lifted.mask.left, lifted.mask.top);
    context.globalCompositeOperation = "source-over";
    context.drawImage(lifted.mask.lifted, lifted.mask.left, lifted.mask.top);
  }

  /** The smallest phrase under the pointer, or null. */
  under(event) {
    const frame = this.root.getBoundingClientRect();
    const x = Math.floor(((event.clientX - frame.left) / frame.width) * this.picture.width);
    const y = Math.floor(((event.clientY - frame.top) / frame.height) * this.picture.height);
    const { width, height } = this.picture;
    if (x < 0 || y < 0 || x >= width || y >= height) return null;
    const found = [...this.drawn.keys()].filter((one) => isInside(one.ends, height, x, y));
    return found.reduce((best, one) => (best && best.area <= one.area ? best : one), null);
  }

  point(event) {
    const phrase = this.under(event);
    this.root.classList.toggle("pointed", phrase !== null);
    this.name.hidden = phrase === null;
    this.onLift(phrase);
    if (phrase === null) return;
    const frame = this.root.getBoundingClientRect();
    this.name.textContent = phrase.text;
    this.name.style.setProperty("--colour", phrase.colour);
    const x = event.clientX - frame.left;
    const room = frame.width - this.name.offsetWidth - 8;
    this.name.style.left = `${Math.max(Math.min(x + 14, room), 8)}px`;
    this.name.style.top = `${Math.max(event.clientY - frame.top - 40, 8)}px`;
  }

  leave() {
    this.name.hidden = true;
    this.root.classList.remove("pointed");
    this.onLift(null);
  }

  click(event) {
    const phrase = this.under(event);
    if (phrase !== null) this.onPick(phrase);
  }

  buttons() {
    return [...this.root.querySelectorAll(".badge")];
  }

  /** One stop of the Tab key for all badges; arrow keys go on from there. */
  rove(chosen) {
    for (const button of this.buttons()) button.tabIndex = button === chosen ? 0 : -1;
  }

  key(event) {
    const buttons = this.buttons();
    const at = buttons.indexOf(document.activeElement);
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    if (at < 0 || !(event.key in steps)) return;
    event.preventDefault();
    const next = buttons[(at + steps[event.key] + buttons.length) % buttons.length];
    this.rove(next);
    next.focus();
  }
}

