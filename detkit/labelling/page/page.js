// The page: its parts, and how one leads to another.

import { Classes } from "./classes.js";
import { Desk } from "./desk.js";
import { Holder } from "./holder.js";
import { Images } from "./images.js";
import { Models } from "./models.js";
import { Objects } from "./objects.js";
import { Overlay } from "./overlay.js";
import { Photo } from "./photo.js";
import { Pointer } from "./pointer.js";
import { Saving } from "./saving.js";
import { View } from "./view.js";
import { area, contains, iou, sayBox } from "./boxes.js";
import { server } from "./server.js";
import { showName } from "./names.js";

const NOTE_STAYS = 5000;
const find = (name) => document.getElementById(name);

/** Events: "opened", when an image is there; "failed", when it is not to be had. */
export class Page extends EventTarget {
  constructor() {
    super();
    this.stage = find("stage");
    this.holder = new Holder(server);
    this.saving = new Saving(server, () => this.holder.editor);
    this.desk = new Desk(this.saving);
    this.view = new View();
    this.photo = new Photo(server);
    this.overlay = new Overlay(find("overlay"), this.view, this.desk);
    this.pointer = new Pointer(this.stage, this.view, this.desk, this.overlay, () => this.redraw());
    this.images = new Images(document);
    this.classes = new Classes(document, this.desk);
    this.objects = new Objects(document, this.desk);
    this.models = new Models(document, server, this.desk);
    this.state = null;
    this.before = null; // the image that was open before this one
    this.wanted = null; // the image that is being opened
    this.frame = null;
    this.snapTo = null;
    this.#listen();
  }

  #listen() {
    const { desk } = this;
    desk.addEventListener("change", () => this.#changed());
    desk.addEventListener("live", () => this.objects.draw());
    desk.addEventListener("findings", () => this.objects.drawFindings());
    desk.addEventListener("note", ({ detail }) => this.note(detail));
    desk.addEventListener("nameless", () => this.findClass());
    desk.addEventListener("accept", ({ detail }) => this.acceptOne(detail));
    desk.addEventListener("snappable", ({ detail }) => this.#snappable(detail));
    this.photo.addEventListener("change", () => this.redraw());
    this.photo.addEventListener("failed", () => this.redraw());
    this.images.addEventListener("open", ({ detail }) => {
      this.open(detail);
      this.closePanels();
    });
    this.classes.addEventListener("choose", ({ detail }) => this.#chooseClass(detail));
    this.classes.addEventListener("add", ({ detail }) => this.addClass(detail));
    this.objects.addEventListener("look", ({ detail }) => this.#look(detail));
    new ResizeObserver(() => this.#resize()).observe(this.stage);
  }

  // Drawing

  redraw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.#draw();
    });
  }

  #resize() {
    const { width, height } = this.stage.getBoundingClientRect();
    if (width < 1 || height < 1) return;
    this.view.setStage(width, height);
    this.#draw(); // in the same frame, or the canvas would flicker
  }

  #draw() {
    const { view, photo, stage } = this;
    const dpr = window.devicePixelRatio || 1;
    for (const canvas of [find("photo"), find("overlay")]) {
      const [width, height] = [view.stage.width, view.stage.height].map((size) => Math.round(size * dpr));
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    }
    const context = find("photo").getContext("2d");
    context.clearRect(0, 0, context.canvas.width, context.canvas.height);
    photo.draw(context, view, dpr);
    this.overlay.draw(dpr);
    find("cannot").hidden = !photo.failed;
    if (photo.failed) find("cannot").textContent = "This image cannot be shown.";
    find("zoom").textContent = `${Math.round(view.scale * 100)} %`;
    Object.assign(stage.dataset, { scale: view.scale, left: view.left, top: view.top });
    this.#readout();
  }

  #readout() {
    const { desk, overlay, view } = this;
    const words = [];
    if (desk.image && overlay.pointer) {
      const { x, y } = view.toImage(overlay.pointer);
      if (x >= 0 && y >= 0 && x < desk.image.width && y < desk.image.height) {
        words.push(`${Math.floor(x)}, ${Math.floor(y)}`);
      }
    }
    const box = desk.live?.box ?? desk.object?.box;
    if (box) words.push(sayBox(box));
    find("readout").textContent = words.join("   ");
  }

  #changed() {
    const { desk, images } = this;
    this.classes.draw();
    this.objects.draw();
    this.models.draw();
    if (desk.image) {
      images.update(desk.image.number, { state: desk.state, objects: desk.objects.length });
      this.#progress();
    }
    for (const radio of document.querySelectorAll("input[name=state]")) {
      radio.checked = radio.value === desk.state;
      radio.disabled = !desk.canEdit;
    }
    find("difficult").setAttribute("aria-pressed", Boolean(desk.object?.difficult));
    if (!desk.object || !this.snapTo || iou(desk.object.box, this.snapTo) > 0.999) this.snapTo = null;
    find("snap").hidden = this.snapTo === null;
    this.#speak();
    this.redraw();
  }

  #progress() {
    const { done } = this.images;
    const all = this.images.all.size;
    find("progress-text").textContent = `${done} of ${all} done`;
    find("progress").max = Math.max(all, 1);
    find("progress").value = done;
  }

  #speak() {
    const { desk } = this;
    let text = "";
    if (desk.object) {
      const hard = desk.object.difficult ? ", difficult" : "";
      text = `${desk.object.label}${hard}, box ${desk.selected.index + 1} of ${desk.objects.length}, ${sayBox(desk.object.box)}`;
    } else if (desk.selected) {
      const { label, score, box } = desk.drafts.detections[desk.selected.index];
      text = `pre-label ${label}, score ${score.toFixed(2)}, ${sayBox(box)}`;
    }
    if (find("spoken").textContent !== text) find("spoken").textContent = text;
  }

  note(text) {
    clearTimeout(this.noteEnds);
    find("note").textContent = text;
    this.noteEnds = setTimeout(() => { find("note").textContent = ""; }, NOTE_STAYS);
  }

  // Images

  /** Open an image; what is unsaved of the one before goes off first. */
  async open(number) {
    this.pointer.cancel();
    this.saving.flush();
    if (this.desk.image && this.desk.image.number !== number) this.before = this.desk.image.number;
    this.wanted = number;
    this.desk.close();
    this.images.open(number);
    let record;
    try {
      record = await server.image(number);
    } catch (error) {
      if (this.wanted !== number) return;
      this.dispatchEvent(new Event("failed"));
      this.note(`The image cannot be opened: ${error.message}`);
      setTimeout(() => this.wanted === number && !this.desk.image && this.open(number), 2000);
      return;
    }
    if (this.wanted !== number) return;
    this.#show(record);
    this.dispatchEvent(new Event("opened"));
  }

  /** Whether an image is on its way. */
  get isOpening() {
    return this.wanted !== null && this.desk.image?.number !== this.wanted;
  }

  #show(record) {
    const { number, name, width, height, split } = record;
    this.view.show(record);
    this.photo.open(record, this.state.zoom_tiles);
    this.desk.open(record);
    history.replaceState(null, "", `#${number}`);
    showName(find("name"), name);
    const facts = width === null ? ["cannot be read"] : [`${width} × ${height}`];
    if (split && split !== "all") facts.push(split);
    const place = this.images.places.get(number);
    if (place !== undefined) facts.push(`${place + 1} of ${this.images.rows.length}`);
    const why = this.images.reasons[number];
    if (why) facts.push(why);
    find("facts").textContent = facts.join(" · ");
    find("facts").title = facts.join(" · ");
    document.title = `${name} · detkit label`;
    this.objects.drawFindings();
    this.images.update(number, {
      state: this.desk.state, objects: this.desk.objects.length, findings: record.findings.length,
    });
    this.models.load();
    const next = this.images.beside(1);
    if (next !== null && this.images.all.get(next)?.width !== null) this.photo.prepare(next);
  }

  go(by) {
    const number = this.images.beside(by);
    if (number === null) this.note(by > 0 ? "This is the last image of the list." : "This is the first image of the list.");
    else this.open(number);
  }

  goToDo() {
    const number = this.images.nextToDo();
    if (number === null) this.note("No image is left to do.");
    else this.open(number);
  }

  find() {
    this.openPanel("images-panel");
    find("image-search").select();
    find("image-search").focus();
  }

  async copyPrevious() {
    const { desk } = this;
    if (!desk.may()) return;
    const number = this.before ?? this.images.beside(-1);
    if (number === null) {
      this.note("There is no image before this one.");
      return;
    }
    const here = desk.image.number;
    const known = this.saving.has(number) ? desk.histories.get(number)?.present : null;
    try {
      const { objects } = known ?? (await server.image(number));
      if (desk.image?.number === here) desk.copyFrom(this.images.all.get(number).name, objects);
    } catch (error) {
      this.note(`Nothing copied: ${error.message}`);
    }
  }

  // Boxes

  #look(index) {
    const { desk } = this;
    if (index !== null && desk.objects[index]) {
      desk.select({ kind: "object", index });
      if (this.#isFarOff(desk.objects[index].box)) this.view.look(desk.objects[index].box);
    } else {
      desk.select(null);
      this.view.fit();
    }
    this.closePanels();
    this.redraw();
  }

  /** Whether a box is out of sight, cut off, or too small on the screen to be judged. */
  #isFarOff(box) {
    const [left, top, right, bottom] = this.view.seen;
    const { width, height } = this.desk.size;
    const cut = box[0] < Math.min(left, width - 1) || box[1] < Math.min(top, height - 1)
      || box[2] > Math.max(right, 1) || box[3] > Math.max(bottom, 1);
    return cut || Math.max(box[2] - box[0], box[3] - box[1]) * this.view.scale < 40;
  }

  lookAtBox() {
    if (!this.desk.object) return this.note("Select a box first.");
    this.view.look(this.desk.object.box);
    return this.redraw();
  }

  bringIntoSight() {
    const { desk, view } = this;
    const box = desk.object?.box ?? desk.drafts.detections[desk.selected.index].box;
    const [left, top, right, bottom] = view.seen;
    if (box[0] < right && box[2] > left && box[1] < bottom && box[3] > top) return;
    const middle = view.toStage({ x: (box[0] + box[2]) / 2, y: (box[1] + box[3]) / 2 });
    view.pan(view.stage.width / 2 - middle.x, view.stage.height / 2 - middle.y);
  }

  draftUnderPointer() {
    const { desk, overlay, view } = this;
    if (!overlay.pointer) return undefined;
    const point = view.toImage(overlay.pointer);
    const boxOf = (index) => desk.drafts.detections[index].box;
    return desk.offered.filter((index) => contains(boxOf(index), point))
      .sort((a, b) => area(boxOf(a)) - area(boxOf(b)))[0];
  }

  async acceptAll() {
    const { desk } = this;
    if (!desk.may()) return;
    if (!desk.offered.length) {
      this.note("No pre-label is shown.");
      return;
    }
    await this.#accept(desk.offered);
  }

  /** Accept pre-labels; classes that only the model knows are added first. */
  async #accept(indices) {
    const { desk } = this;
    const here = desk.image.number;
    const labels = new Set(indices.map((index) => desk.drafts.detections[index].label));
    for (const label of labels) {
      if (!desk.classes.includes(label) && !(await this.addClass(label, false))) return;
    }
    if (desk.image?.number === here) desk.accept(indices);
  }

  acceptOne(index) {
    if (this.desk.may()) this.#accept([index]);
  }

  #snappable(box) {
    this.snapTo = box;
    find("snap").hidden = false;
  }

  /** Give the selected box the edges of the proposal that it means. */
  snap() {
    const { desk } = this;
    const box = this.snapTo ?? (desk.object && desk.proposalLike(desk.object.box));
    if (!desk.object || !box) return this.note(this.state.model ? "No pre-label is shown." : "There is no proposal for this box.");
    this.snapTo = null;
    return desk.change({ box: [...box] });
  }

  stepThreshold(by) {
    if (this.state.model) this.models.setThreshold(this.desk.threshold + by);
  }

  // Classes

  #chooseClass(name) {
    this.desk.setLabel(name);
    this.closePanels();
    this.stage.focus();
  }

  classAt(index) {
    const name = this.desk.classes[index];
    if (name !== undefined) this.desk.setLabel(name);
    else this.note(`There is no class ${index + 1}.`);
  }

  findClass() {
    this.openPanel("boxes-panel");
    find("class-search").focus();
  }

  /** Add a class; whether it is there now. */
  async addClass(name, choose = true) {
    if (!this.desk.may()) return false;
    try {
      const { classes } = await server.addClass(this.holder.editor, name);
      this.setClasses(classes);
    } catch (error) {
      this.note(`The class cannot be added: ${error.message}`);
      return false;
    }
    if (choose) {
      find("class-search").value = "";
      this.#chooseClass(this.desk.classes.includes(name) ? name : this.desk.classes.at(-1));
    }
    return true;
  }

  setClasses(classes) {
    this.desk.classes = classes;
    if (!classes.includes(this.desk.label)) this.desk.label = classes[0] ?? null;
    this.desk.emit("change");
  }

  // View

  zoom(factor) {
    this.view.zoom(factor);
    this.redraw();
  }

  zoomWhole() {
    this.view.zoomTo(1 / (window.devicePixelRatio || 1));
    this.redraw();
  }

  fit() {
    this.view.fit();
    this.redraw();
  }

  toggleGuides() {
    this.overlay.guides = !this.overlay.guides;
    this.note(this.overlay.guides ? "Crosshair on." : "Crosshair off.");
    this.redraw();
  }

  help() {
    find("help").showModal();
  }

  openPanel(name) {
    for (const panel of document.querySelectorAll(".panel")) panel.classList.toggle("open", panel.id === name);
    this.#dock();
  }

  togglePanel(name) {
    if (find(name).classList.contains("open")) this.closePanels();
    else this.openPanel(name);
  }

  closePanels() {
    for (const panel of document.querySelectorAll(".panel.open")) panel.classList.remove("open");
    this.#dock();
  }

  #dock() {
    for (const button of document.querySelectorAll(".dock [aria-controls]")) {
      const isOpen = find(button.getAttribute("aria-controls")).classList.contains("open");
      button.setAttribute("aria-expanded", isOpen);
    }
    this.images.draw();
  }
}
