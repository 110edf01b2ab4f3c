// The open image and its labels: what is drawn, listed, undone and saved.

import { History } from "./history.js";
import { area, clip, iou } from "./boxes.js";

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

/** What of an object is its label; the order of the keys makes two alike compare as equal. */
function plain({ label, box, difficult, machine_made: made, score, crowd }) {
  const object = { label, box: [...box], difficult: Boolean(difficult), machine_made: Boolean(made) };
  if (made && typeof score === "number") object.score = score;
  if (crowd) object.crowd = true;
  return object;
}

/**
 * Events: "open" (another image), "change" (labels or selection), "live" (a drag in progress),
 * "findings", "drafts", "note" (detail: text to tell).
 */
export class Desk extends EventTarget {
  constructor(saving) {
    super();
    this.saving = saving;
    this.histories = new Map();
    this.image = null;
    this.objects = [];
    this.state = "todo";
    this.findings = [];
    this.drafts = { status: "none", generation: 0, detections: [] };
    this.hidden = new Set(); // drafts that were turned down
    this.proposals = { status: "none", boxes: [] };
    this.threshold = 0.5;
    this.selected = null; // {kind: "object" | "draft", index}
    this.live = null; // {index | null, box}: what a hand is dragging
    this.offer = null; // the proposal around the pointer
    this.nameless = null; // a box that waits for the first class
    this.label = null; // the class of the next box
    this.classes = [];
    this.readOnly = true;
  }

  emit(name, detail = null) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  note(text) {
    this.emit("note", text);
  }

  /** Open an image as the server has it; labels of it that are not saved yet stay. */
  open(record) {
    const { number, name, split, width, height, revision, findings } = record;
    this.image = { number, name, split, width, height };
    const found = { objects: record.objects.map(plain), state: record.state };
    const history = this.histories.get(number);
    if (!history) this.histories.set(number, new History(found));
    else if (!this.saving.has(number) && !same(history.present, found)) history.push(found);
    if (!this.saving.has(number)) this.saving.know(number, revision);
    this.findings = findings;
    this.hidden = new Set();
    this.proposals = { status: "none", boxes: [] };
    this.selected = this.live = this.offer = this.nameless = null;
    this.#take(this.histories.get(number).present);
    this.emit("open");
    this.emit("change");
  }

  /** Let go of the open image, until the next one is there. */
  close() {
    this.image = this.selected = this.live = this.offer = this.nameless = null;
    this.objects = [];
    this.findings = [];
    this.drafts = { status: "none", generation: 0, detections: [] };
    this.emit("change");
  }

  #take({ objects, state }) {
    this.objects = objects;
    this.state = state;
  }

  get size() {
    return { width: this.image.width, height: this.image.height };
  }

  get canEdit() {
    return this.image !== null && this.image.width !== null && !this.readOnly;
  }

  get object() {
    return this.selected?.kind === "object" ? this.objects[this.selected.index] ?? null : null;
  }

  /** Whether the labels may be changed; else why not is told. */
  may() {
    if (this.canEdit) return true;
    if (this.image) {
      const broken = this.image.width === null;
      this.note(broken ? "This image cannot be read; it takes no labels." : "This page is read-only.");
    }
    return false;
  }

  /** Make labels the image's present ones: into its history, and off to the disk. */
  commit(objects, { state, select = this.selected, merge = null } = {}) {
    if (!this.may()) return false;
    const next = state ?? (objects.length ? "done" : this.state === "empty" ? "empty" : "todo");
    const content = { objects: objects.map(plain), state: next };
    this.live = null;
    if (same(content, { objects: this.objects, state: this.state })) {
      this.select(select);
      return true;
    }
    this.histories.get(this.image.number).push(content, merge);
    this.#take(content);
    this.selected = select;
    this.#save(merge ? 100 : 0);
    return true;
  }

  #save(delay) {
    this.#settle();
    this.saving.put(this.image.number, { state: this.state, objects: this.objects }, delay);
    this.emit("change");
  }

  #settle() {
    const { selected } = this;
    if (selected?.kind === "object" && selected.index >= this.objects.length) this.selected = null;
    if (selected?.kind === "draft" && !this.isOffered(selected.index)) this.selected = null;
  }

  #step(way, word) {
    if (!this.may()) return;
    const state = this.histories.get(this.image.number)[way]();
    if (!state) {
      this.note(`Nothing to ${way} in this image.`);
      return;
    }
    const before = this.objects;
    this.#take(state);
    const changed = state.objects.findIndex((object, index) => !same(object, before[index]));
    this.selected = changed >= 0 ? { kind: "object", index: changed } : null;
    this.#save(0);
    this.note(word);
  }

  undo() {
    this.#step("undo", "Undone.");
  }

  redo() {
    this.#step("redo", "Done again.");
  }

  /** Take what another page saved; what stood here stays one step back. */
  takeOther(now, sent) {
    const found = { objects: now.objects.map(plain), state: now.state };
    const mine = sent && { objects: sent.objects.map(plain), state: sent.state };
    const history = this.histories.get(now.number);
    this.saving.know(now.number, now.revision);
    if (mine && same(mine, found)) return false; // it was saved after all, the answer was lost
    if (history && !same(history.present, found)) history.push(found);
    if (this.image?.number === now.number) {
      this.#take(found);
      this.findings = now.findings;
      this.live = null;
      this.#settle();
      this.emit("findings");
      this.emit("change");
    }
    return true;
  }

  select(selected) {
    this.selected = selected;
    const object = this.object;
    if (object) this.label = object.label;
    this.emit("change");
  }

  /** Add a box of the present class; without any class it waits for one. */
  add(box) {
    if (!this.may()) return;
    if (this.label === null || !this.classes.includes(this.label)) this.label = this.classes[0] ?? null;
    if (this.label === null) {
      this.nameless = box;
      this.live = null;
      this.emit("change");
      this.emit("nameless");
      return;
    }
    const object = { label: this.label, box, difficult: false, machine_made: false };
    const index = this.objects.length;
    this.commit([...this.objects, object], { select: { kind: "object", index } });
  }

  /** Change the selected object; what a hand changed is the machine's no longer. */
  change(values, merge = null) {
    if (!this.object) return false;
    const { index } = this.selected;
    const objects = this.objects.map((object, at) =>
      at === index ? { ...object, machine_made: false, ...values } : object,
    );
    return this.commit(objects, { merge: merge && `${merge} ${index}` });
  }

  setLabel(label) {
    this.label = label;
    if (this.nameless) {
      const box = this.nameless;
      this.nameless = null;
      this.add(box);
    } else if (this.object && this.object.label !== label) this.change({ label });
    else this.emit("change");
  }

  setDifficult() {
    if (!this.object) return this.note("Select a box first.");
    return this.change({
      difficult: !this.object.difficult,
      machine_made: this.object.machine_made,
    });
  }

  remove() {
    if (this.selected?.kind === "draft") {
      this.hidden.add(this.selected.index);
      this.selected = null;
      this.emit("change");
    } else if (this.object) {
      const { index } = this.selected;
      const left = this.objects.filter((_, at) => at !== index);
      this.commit(left, { select: null });
    } else this.note("Select a box first.");
  }

  duplicate() {
    if (!this.object) return this.note("Select a box first.");
    const [x1, y1, x2, y2] = this.object.box;
    const { width, height } = this.size;
    const by = Math.max(4, Math.round(Math.max(width, height) / 100));
    const dx = x2 + by <= width ? by : x1 - by >= 0 ? -by : 0;
    const dy = y2 + by <= height ? by : y1 - by >= 0 ? -by : 0;
    const copy = { ...this.object, machine_made: false, box: [x1 + dx, y1 + dy, x2 + dx, y2 + dy] };
    const index = this.objects.length;
    return this.commit([...this.objects, copy], { select: { kind: "object", index } });
  }

  /** Add another image's objects, clipped to this one. */
  copyFrom(name, others) {
    if (!this.may()) return;
    const fitting = others
      .map((object) => ({ ...object, box: clip(object.box, this.size) }))
      .filter((object) => object.box && !this.objects.some(
        (mine) => mine.label === object.label && same(mine.box, object.box),
      ));
    if (!fitting.length) {
      this.note(`${name} has no box that is not here already.`);
      return;
    }
    this.commit([...this.objects, ...fitting], { select: null });
    this.note(`${fitting.length} ${fitting.length === 1 ? "box" : "boxes"} copied from ${name}.`);
  }

  /** Set the image's state; "empty" takes its boxes away, which undo brings back. */
  setState(state) {
    if (!this.may()) return;
    if (state === "done" && !this.objects.length) {
      this.note("There is no box yet; “No object” says that there is nothing to mark.");
      this.emit("change");
      return;
    }
    const gone = state === "empty" ? this.objects.length : 0;
    this.commit(state === "empty" ? [] : this.objects, { state });
    if (gone) this.note(`${gone} ${gone === 1 ? "box" : "boxes"} taken away; undo brings them back.`);
  }

  toggleState(state) {
    if (this.state !== state) this.setState(state);
    else this.setState(this.objects.length ? "done" : "todo");
  }

  /** Whether a pre-label is shown: sure enough, not turned down, no object there already. */
  isOffered(index) {
    const draft = this.drafts.detections[index];
    if (!draft || draft.score < this.threshold || this.hidden.has(index)) return false;
    return !this.objects.some(({ box, label }) =>
      iou(box, draft.box) > (label === draft.label ? 0.5 : 0.8));
  }

  /** The numbers of the pre-labels that are shown, the surest first. */
  get offered() {
    const { detections } = this.drafts;
    return detections.map((_, index) => index)
      .filter((index) => this.isOffered(index))
      .sort((a, b) => detections[b].score - detections[a].score);
  }

  setDrafts(drafts) {
    this.drafts = drafts;
    this.hidden = new Set();
    if (this.selected?.kind === "draft") this.selected = null;
    this.emit("drafts");
    this.emit("change");
  }

  setThreshold(value) {
    this.threshold = value;
    this.#settle();
    this.emit("change");
  }

  /** Make pre-labels objects, the surest first, each once where two mark one thing. */
  accept(indices) {
    if (!this.may() || !indices.length) return;
    const objects = [...this.objects];
    for (const index of indices) {
      const { label, score, box } = this.drafts.detections[index];
      const twin = objects.some((one) => one.label === label && iou(one.box, box) > 0.5);
      const inside = clip(box, this.size);
      if (inside && !(twin && indices.length > 1)) {
        objects.push({ label, box: inside, difficult: false, machine_made: true, score });
      }
    }
    const one = indices.length === 1 && objects.length > this.objects.length;
    this.commit(objects, { select: one ? { kind: "object", index: objects.length - 1 } : null });
    if (!one) this.note(`${objects.length - this.objects.length || indices.length} accepted.`);
  }

  /** The proposal around a point: the smallest one, and not of the size of what is there. */
  proposalAt(point) {
    const inside = this.proposals.boxes.filter(
      ([x1, y1, x2, y2]) => point.x >= x1 && point.x < x2 && point.y >= y1 && point.y < y2,
    );
    const free = inside.filter((box) => !this.objects.some((one) => iou(one.box, box) > 0.8));
    return nearest(free, point);
  }

  /** The proposal that a box in the drawing means, if one overlaps it by half. */
  proposalLike(box) {
    let best = null;
    let most = 0.5;
    for (const other of this.proposals.boxes) {
      const overlap = iou(box, other);
      if (overlap > most) [best, most] = [other, overlap];
    }
    return best;
  }
}

/** Of boxes around a point the one whose middle is nearest, measured by its size. */
function nearest(boxes, { x, y }) {
  let best = null;
  let least = Infinity;
  boxes.forEach((box, rank) => {
    const across = (x - (box[0] + box[2]) / 2) / (box[2] - box[0]);
    const down = (y - (box[1] + box[3]) / 2) / (box[3] - box[1]);
    // Proposals come best first: a better one may be a little less central.
    const far = Math.hypot(across, down) + 0.3 * (rank / boxes.length);
    if (far < least || (far === least && area(box) < area(best))) [best, least] = [box, far];
  });
  return best;
}
