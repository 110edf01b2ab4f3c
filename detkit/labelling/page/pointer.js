// The hand on the stage: mouse, pen and fingers draw, move, resize, take, pan and zoom.

import { HANDLES, area, contains, draw, handlePoint, move, resize } from "./boxes.js";

const CURSORS = {
  nw: "nwse-resize", se: "nwse-resize", ne: "nesw-resize", sw: "nesw-resize",
  n: "ns-resize", s: "ns-resize", e: "ew-resize", w: "ew-resize",
};
const distance = (a, b) => Math.hypot(a.x - b.x, a.y - b.y);

export class Pointer {
  constructor(stage, view, desk, overlay, redraw) {
    Object.assign(this, { stage, view, desk, overlay, redraw });
    this.down = new Map(); // pointer id -> where it is
    this.gesture = null;
    this.pinch = null;
    this.space = false;
    this.shift = false;
    this.offering = false; // proposals are offered without the shift key
    stage.addEventListener("pointerdown", (event) => this.#press(event));
    stage.addEventListener("pointermove", (event) => this.#move(event));
    stage.addEventListener("pointerup", (event) => this.#release(event));
    stage.addEventListener("pointercancel", (event) => this.#lose(event));
    stage.addEventListener("pointerleave", () => this.#leave());
    stage.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    stage.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  #at(event) {
    const place = this.stage.getBoundingClientRect();
    return { x: event.clientX - place.left, y: event.clientY - place.top };
  }

  #press(event) {
    if (event.target.closest("button, a, input")) return;
    event.preventDefault();
    this.stage.focus({ preventScroll: true });
    if (!this.desk.image || this.down.size >= 2) return;
    const at = this.#at(event);
    this.down.set(event.pointerId, at);
    this.stage.setPointerCapture(event.pointerId);
    if (this.down.size === 2) {
      this.cancel();
      this.pinch = this.#span();
      return;
    }
    if (event.button === 1 || (event.button === 0 && this.space)) this.#begin({ kind: "pan" }, event, at);
    else if (event.button === 0) this.#begin(this.#aim(at, event), event, at);
  }

  #begin(gesture, event, at) {
    const far = event.pointerType === "touch" ? 8 : 3;
    this.gesture = { ...gesture, id: event.pointerId, from: at, last: at, far, active: false };
    this.gesture.start = this.view.toImage(at);
    this.#cursor(at, event);
  }

  /** What a drag from here would do. */
  #aim(at, event) {
    const { desk } = this;
    if (desk.readOnly) return { kind: "pan" };
    if (event.shiftKey) return { kind: "draw" };
    const reach = event.pointerType === "touch" ? 22 : 8;
    const handle = this.#handleAt(at, reach);
    if (handle) return { kind: "resize", handle, index: desk.selected.index, box: desk.object.box };
    if (desk.object && contains(desk.object.box, this.view.toImage(at))) {
      return { kind: "move", index: desk.selected.index, box: desk.object.box };
    }
    const index = this.#edgeAt(at, reach / 2);
    if (index !== null) return { kind: "move", index, box: desk.objects[index].box, taking: true };
    return { kind: "draw" };
  }

  #handleAt(at, reach) {
    if (!this.desk.object || this.desk.readOnly) return null;
    const { box } = this.desk.object;
    const from = this.view.toStage({ x: box[0], y: box[1] });
    const to = this.view.toStage({ x: box[2], y: box[3] });
    // Inside a small box a third of it stays for moving.
    const inner = Math.min(reach, Math.min(to.x - from.x, to.y - from.y) / 3);
    const inside = at.x > from.x + inner && at.x < to.x - inner && at.y > from.y + inner && at.y < to.y - inner;
    if (inside) return null;
    let best = null;
    let least = reach;
    for (const handle of HANDLES) {
      const far = distance(this.view.toStage(handlePoint(box, handle)), at);
      if (far <= least) [best, least] = [handle, far];
    }
    return best;
  }

  /** The object whose edge or name lies under the pointer. */
  #edgeAt(at, reach) {
    const tag = [...this.overlay.tags].reverse().find((one) =>
      one.kind === "object" && at.x >= one.x && at.x <= one.x + one.width
      && at.y >= one.y && at.y <= one.y + one.height);
    if (tag) return tag.index;
    let best = null;
    this.desk.objects.forEach(({ box }, index) => {
      const from = this.view.toStage({ x: box[0], y: box[1] });
      const to = this.view.toStage({ x: box[2], y: box[3] });
      const outside = at.x < from.x - reach || at.x > to.x + reach || at.y < from.y - reach || at.y > to.y + reach;
      const inside = at.x > from.x + reach && at.x < to.x - reach && at.y > from.y + reach && at.y < to.y - reach;
      if (outside || inside) return;
      if (best === null || area(box) < area(this.desk.objects[best].box)) best = index;
    });
    return best;
  }

  #move(event) {
    const at = this.#at(event);
    this.shift = event.shiftKey;
    this.overlay.pointer = event.pointerType === "touch" ? null : at;
    if (this.down.has(event.pointerId)) this.down.set(event.pointerId, at);
    if (this.pinch) this.#pinching();
    else if (this.gesture?.id === event.pointerId) this.#drag(at);
    else if (!this.gesture) this.hover(at);
    this.#cursor(at, event);
    this.redraw();
  }

  #drag(at) {
    const { gesture, view, desk } = this;
    if (!gesture.active && distance(at, gesture.from) < gesture.far) return;
    if (!gesture.active && gesture.taking) desk.select({ kind: "object", index: gesture.index });
    gesture.active = true;
    if (gesture.kind === "pan") view.pan(at.x - gesture.last.x, at.y - gesture.last.y);
    gesture.last = at;
    this.follow();
  }

  /** Bring the box in the hand to where the pointer is now, as after a zoom. */
  follow() {
    const { gesture, view, desk } = this;
    if (!gesture?.active || gesture.kind === "pan") return;
    if (!desk.canEdit) return;
    const point = view.toImage(gesture.last);
    const by = { x: point.x - gesture.start.x, y: point.y - gesture.start.y };
    if (gesture.kind === "draw") {
      const box = draw(gesture.start, point, desk.size);
      desk.live = box && { index: null, box };
      desk.offer = box && desk.proposalLike(box);
    } else if (gesture.kind === "move") {
      desk.live = { index: gesture.index, box: move(gesture.box, by.x, by.y, desk.size) };
    } else {
      // The edge moves as far as the hand did, wherever in the handle it was taken.
      const corner = handlePoint(gesture.box, gesture.handle);
      const to = { x: corner.x + by.x, y: corner.y + by.y };
      desk.live = { index: gesture.index, box: resize(gesture.box, gesture.handle, to, desk.size) };
    }
    desk.emit("live");
  }

  #release(event) {
    const at = this.#at(event);
    this.down.delete(event.pointerId);
    if (this.pinch) {
      this.pinch = null;
      return;
    }
    const { gesture, desk } = this;
    if (gesture?.id !== event.pointerId) return;
    if (gesture.active) this.#drag(at);
    this.gesture = null;
    if (!gesture.active) this.#click(at, event, gesture);
    else if (gesture.kind !== "pan") this.#finish(gesture, event);
    if (event.pointerType === "touch" && !this.offering) desk.offer = null;
    this.#cursor(at, event);
    this.redraw();
  }

  #finish(gesture, event) {
    const { desk } = this;
    const { live, offer } = desk;
    desk.live = null;
    if (!live) {
      if (desk.may()) desk.note("Nothing drawn: the box is outside the image or thinner than a pixel.");
      return;
    }
    if (gesture.kind !== "draw") {
      desk.selected = { kind: "object", index: gesture.index };
      desk.change({ box: live.box });
      return;
    }
    desk.offer = null;
    const takes = offer && event.shiftKey;
    desk.add(takes ? [...offer] : live.box);
    if (offer && !takes) desk.emit("snappable", offer);
  }

  #click(at, event, gesture) {
    const { desk } = this;
    if (gesture.kind === "pan" && !desk.readOnly) return;
    const point = this.view.toImage(at);
    if (desk.offer && (event.shiftKey || this.offering) && contains(desk.offer, point)) {
      const box = [...desk.offer];
      desk.offer = null;
      desk.add(box);
      return;
    }
    const found = this.#under(at, point);
    const [first] = found;
    if (!first) desk.select(null);
    else if (first.kind === "draft" && !desk.readOnly) desk.emit("accept", first.index);
    else {
      const own = found.filter((one) => one.kind === "object");
      const now = own.findIndex((one) =>
        desk.selected?.kind === "object" && desk.selected.index === one.index);
      desk.select(own.length ? { kind: "object", index: own[(now + 1) % own.length].index } : null);
    }
  }

  /** What lies under a point, the smallest first; a name that is hit before all. */
  #under(at, point) {
    const { desk, overlay } = this;
    if (overlay.hideBoxes) return [];
    const tag = [...overlay.tags].reverse().find((one) =>
      at.x >= one.x && at.x <= one.x + one.width && at.y >= one.y && at.y <= one.y + one.height);
    if (tag) return [{ kind: tag.kind, index: tag.index }];
    const objects = desk.objects.map(({ box }, index) => ({ kind: "object", index, box }));
    const drafts = desk.offered.map((index) => ({
      kind: "draft", index, box: desk.drafts.detections[index].box,
    }));
    const found = [...objects, ...drafts].filter(({ box }) => contains(box, point));
    if (found.length) return found.sort((a, b) => area(a.box) - area(b.box));
    const edge = this.#edgeAt(at, 6);
    return edge === null ? [] : [{ kind: "object", index: edge }];
  }

  /** Offer the proposal around the pointer, while shift is held or offering is on. */
  hover(at = this.overlay.pointer) {
    const { desk } = this;
    const wanted = at && desk.canEdit && (this.shift || this.offering);
    desk.offer = wanted ? desk.proposalAt(this.view.toImage(at)) : null;
  }

  #lose(event) {
    this.down.delete(event.pointerId);
    this.pinch = null;
    if (this.gesture?.id === event.pointerId) this.cancel();
  }

  #leave() {
    this.overlay.pointer = null;
    if (!this.gesture) this.desk.offer = null;
    this.redraw();
  }

  /** Let go of what is being dragged, as if it had not been touched; whether there was anything. */
  cancel() {
    const had = this.gesture !== null;
    this.gesture = null;
    this.desk.live = this.desk.offer = null;
    this.redraw();
    return had;
  }

  #span() {
    const [a, b] = [...this.down.values()];
    return { length: Math.max(1, distance(a, b)), middle: { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 } };
  }

  #pinching() {
    if (this.down.size < 2) return;
    const now = this.#span();
    this.view.pan(now.middle.x - this.pinch.middle.x, now.middle.y - this.pinch.middle.y);
    this.view.zoom(now.length / this.pinch.length, now.middle);
    this.pinch = now;
  }

  #wheel(event) {
    event.preventDefault();
    if (!this.desk.image) return;
    const unit = [1, 33, 400][event.deltaMode];
    const [dx, dy] = [event.deltaX * unit, event.deltaY * unit];
    if (event.shiftKey) this.view.pan(-(dx || dy), 0);
    else if (Math.abs(dx) > Math.abs(dy)) this.view.pan(-dx, 0);
    else {
      // A pinch on a touch pad comes as a wheel with ctrl and small steps.
      const speed = event.ctrlKey && Math.abs(dy) < 50 ? 0.01 : 0.002;
      const step = Math.min(Math.max(-dy * speed, -0.7), 0.7);
      this.view.zoom(Math.exp(step), this.#at(event));
    }
    this.follow();
    this.redraw();
  }

  #cursor(at, event) {
    const { gesture, stage } = this;
    let cursor = "crosshair";
    if (gesture?.kind === "pan") cursor = "grabbing";
    else if (this.space) cursor = "grab";
    else if (!this.desk.image) cursor = "default";
    else {
      const aim = gesture ?? this.#aim(at, event);
      if (aim.kind === "resize") cursor = CURSORS[aim.handle];
      else if (aim.kind === "move") cursor = "move";
      else if (aim.kind === "pan") cursor = "grab";
    }
    stage.style.cursor = cursor;
  }
}
