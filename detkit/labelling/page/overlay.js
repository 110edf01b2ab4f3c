// What is drawn over the image: boxes, their names and handles, guides, the pixel grid.

import { HANDLES, handlePoint } from "./boxes.js";
import { GRID_FROM } from "./view.js";

const FONT = "600 12px system-ui, -apple-system, 'Segoe UI', sans-serif";
const TAG = 18; // height of a name's tag
const HALO = "rgba(0, 0, 0, .65)";

/** The hue of a class, apart from its neighbours' in the list. */
export function hueOf(index) {
  return Math.round((205 + index * 137.508) % 360);
}

function shorten(context, text, room) {
  if (context.measureText(text).width <= room) return text;
  let end = text.length;
  while (end > 1 && context.measureText(`${text.slice(0, end)}…`).width > room) end -= 1;
  return `${text.slice(0, end)}…`;
}

export class Overlay {
  constructor(canvas, view, desk) {
    this.context = canvas.getContext("2d");
    this.view = view;
    this.desk = desk;
    this.pointer = null; // where a mouse is, in CSS pixels of the stage
    this.guides = true;
    this.hideBoxes = false;
    this.tags = []; // what was drawn where: {index, x, y, width, height}
  }

  colour(label) {
    const index = this.desk.classes.indexOf(label);
    return index < 0 ? "hsl(0 0% 75%)" : `hsl(${hueOf(index)} 90% 62%)`;
  }

  draw(dpr) {
    const { context, view, desk } = this;
    const { width, height } = view.stage;
    context.setTransform(dpr, 0, 0, dpr, 0, 0);
    context.clearRect(0, 0, width, height);
    this.tags = [];
    if (!desk.image) return;
    if (view.scale >= GRID_FROM) this.#grid(dpr);
    if (this.hideBoxes) return;
    for (const index of desk.offered) this.#draft(index);
    desk.objects.forEach((object, index) => {
      if (!(desk.selected?.kind === "object" && desk.selected.index === index)) this.#object(object, index);
    });
    if (desk.object) this.#object(desk.object, desk.selected.index);
    const fresh = desk.live?.index === null ? desk.live.box : desk.nameless;
    if (fresh) this.#frame(fresh, this.colour(desk.label), { thick: true });
    if (desk.offer) this.#frame(desk.offer, "#ffffff", { dash: [3, 3] });
    if (this.guides && this.pointer) this.#guides(dpr);
  }

  boxOf(index) {
    return this.desk.live?.index === index ? this.desk.live.box : this.desk.objects[index].box;
  }

  #corners(box) {
    const from = this.view.toStage({ x: box[0], y: box[1] });
    const to = this.view.toStage({ x: box[2], y: box[3] });
    return [from.x, from.y, to.x - from.x, to.y - from.y];
  }

  #frame(box, colour, { thick = false, dash = [], fill = 0 } = {}) {
    const { context } = this;
    const corners = this.#corners(box);
    context.setLineDash(dash);
    context.strokeStyle = HALO;
    context.lineWidth = thick ? 4.5 : 3.5;
    context.strokeRect(...corners);
    context.strokeStyle = colour;
    context.lineWidth = thick ? 2.5 : 1.5;
    context.strokeRect(...corners);
    context.setLineDash([]);
    if (fill) {
      context.globalAlpha = fill;
      context.fillStyle = colour;
      context.fillRect(...corners);
      context.globalAlpha = 1;
    }
  }

  #object(object, index) {
    const isSelected = this.desk.selected?.kind === "object" && this.desk.selected.index === index;
    const box = this.boxOf(index);
    const colour = this.colour(object.label);
    this.#frame(box, colour, { thick: isSelected, fill: isSelected ? 0.12 : 0 });
    const words = object.difficult ? `${object.label} · difficult` : object.label;
    this.#tag(words, box, colour, { isSelected, kind: "object", index });
    if (isSelected && !this.desk.readOnly) this.#handles(box, colour);
  }

  #draft(index) {
    const { label, score, box } = this.desk.drafts.detections[index];
    const isSelected = this.desk.selected?.kind === "draft" && this.desk.selected.index === index;
    const colour = this.colour(label);
    this.#frame(box, colour, { dash: [7, 5], thick: isSelected, fill: isSelected ? 0.1 : 0 });
    const words = `${label} ${score.toFixed(2)}?`;
    this.#tag(words, box, colour, { isSelected, kind: "draft", index });
  }

  #tag(words, box, colour, { isSelected, kind, index }) {
    const { context } = this;
    const [x, y, width, height] = this.#corners(box);
    if (!isSelected && (width < 24 || height < 12)) return; // it would hide what it names
    context.font = FONT;
    context.textBaseline = "middle";
    const text = shorten(context, words, Math.max(60, width - 10));
    const wide = context.measureText(text).width + 10;
    const down = kind === "draft" ? y + height : y - TAG;
    const place = {
      kind, index, width: wide, height: TAG,
      x: Math.min(Math.max(x - 1, 0), Math.max(0, this.view.stage.width - wide)),
      y: Math.min(Math.max(down, 0), Math.max(0, this.view.stage.height - TAG)),
    };
    if (x > this.view.stage.width || x + width < 0) return;
    if (y > this.view.stage.height || y + height < 0) return;
    this.tags.push(place);
    context.fillStyle = kind === "draft" ? "rgba(0, 0, 0, .75)" : colour;
    context.fillRect(place.x, place.y, wide, TAG);
    context.fillStyle = kind === "draft" ? colour : "#10141a";
    context.fillText(text, place.x + 5, place.y + TAG / 2 + 0.5);
  }

  #handles(box, colour) {
    const { context } = this;
    context.strokeStyle = HALO;
    context.lineWidth = 1;
    context.fillStyle = "#ffffff";
    for (const handle of HANDLES) {
      const { x, y } = this.view.toStage(handlePoint(box, handle));
      context.fillRect(x - 4, y - 4, 8, 8);
      context.strokeRect(x - 4, y - 4, 8, 8);
    }
    context.strokeStyle = colour;
  }

  #grid(dpr) {
    const { context, view } = this;
    const [left, top, right, bottom] = view.seen;
    context.beginPath();
    for (let x = Math.ceil(left); x <= right; x += 1) {
      const at = (Math.round(view.toStage({ x, y: 0 }).x * dpr) + 0.5) / dpr;
      context.moveTo(at, view.top + top * view.scale);
      context.lineTo(at, view.top + bottom * view.scale);
    }
    for (let y = Math.ceil(top); y <= bottom; y += 1) {
      const at = (Math.round(view.toStage({ x: 0, y }).y * dpr) + 0.5) / dpr;
      context.moveTo(view.left + left * view.scale, at);
      context.lineTo(view.left + right * view.scale, at);
    }
    context.lineWidth = 1 / dpr;
    context.strokeStyle = "rgba(128, 128, 128, .45)";
    context.stroke();
  }

  #guides(dpr) {
    const { context, view, pointer } = this;
    const point = view.toImage(pointer);
    const { width, height } = this.desk.size;
    if (point.x < 0 || point.y < 0 || point.x > width || point.y > height) return;
    // The guides lie where an edge would: between two pixels.
    const edge = view.toStage({ x: Math.round(point.x), y: Math.round(point.y) });
    const at = view.scale >= 2 ? edge : pointer;
    const [x, y] = [at.x, at.y].map((value) => (Math.round(value * dpr) + 0.5) / dpr);
    for (const [colour, shift] of [["rgba(0, 0, 0, .5)", 1 / dpr], ["rgba(255, 255, 255, .8)", 0]]) {
      context.beginPath();
      context.moveTo(x + shift, 0);
      context.lineTo(x + shift, view.stage.height);
      context.moveTo(0, y + shift);
      context.lineTo(view.stage.width, y + shift);
      context.lineWidth = 1 / dpr;
      context.strokeStyle = colour;
      context.stroke();
    }
  }
}
