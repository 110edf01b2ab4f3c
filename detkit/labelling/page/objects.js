// The lists beside the image: its objects, and what `check` found on them.

import { sayBox } from "./boxes.js";
import { hueOf } from "./overlay.js";

/** Events: "look" (detail: the index of an object, or null for the image). */
export class Objects extends EventTarget {
  constructor(root, desk) {
    super();
    this.desk = desk;
    this.list = root.querySelector("#object-list");
    this.none = root.querySelector("#object-none");
    this.count = root.querySelector("#object-count");
    this.findings = root.querySelector("#finding-list");
    this.findingPart = root.querySelector("#findings");
    this.findingCount = root.querySelector("#finding-count");
    this.list.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) this.#look(Number(button.dataset.index));
    });
    this.findings.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      const { object } = desk.findings[Number(button.dataset.index)];
      this.#look(object === null ? null : object - 1);
    });
  }

  #look(index) {
    this.dispatchEvent(new CustomEvent("look", { detail: index }));
  }

  draw() {
    const { desk, list } = this;
    while (list.children.length > desk.objects.length) list.lastElementChild.remove();
    desk.objects.forEach((object, index) => this.#fill(list.children[index] ?? this.#line(), object, index));
    this.none.hidden = desk.objects.length > 0 || !desk.image;
    this.none.textContent = {
      empty: "Marked: no object in this image.",
      skipped: "Skipped.",
    }[desk.state] ?? "No box yet. Drag on the image to draw one.";
    this.count.textContent = desk.objects.length || "";
    list.querySelector("[aria-pressed=true]")?.scrollIntoView({ block: "nearest" });
  }

  drawFindings() {
    const { desk } = this;
    this.findings.replaceChildren();
    this.findingPart.hidden = !desk.findings.length;
    this.findingCount.textContent = desk.findings.length || "";
    desk.findings.forEach(({ severity, code, message, object }, index) => {
      const item = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.index = index;
      button.dataset.severity = severity;
      const head = document.createElement("strong");
      head.textContent = object === null ? code : `${code} · object ${object}`;
      const text = document.createElement("span");
      text.textContent = message;
      button.append(head, text);
      item.append(button);
      this.findings.append(item);
    });
  }

  #line() {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    for (const part of ["swatch", "name", "place", "marks"]) {
      const cell = document.createElement("span");
      cell.className = part;
      button.append(cell);
    }
    item.append(button);
    this.list.append(item);
    return item;
  }

  #fill(item, object, index) {
    const { desk } = this;
    const [button] = item.children;
    const [swatch, name, place, marks] = button.children;
    const isNow = desk.selected?.kind === "object" && desk.selected.index === index;
    const box = desk.live?.index === index ? desk.live.box : object.box;
    button.dataset.index = index;
    button.setAttribute("aria-pressed", isNow);
    swatch.style.setProperty("--hue", hueOf(Math.max(0, desk.classes.indexOf(object.label))));
    name.textContent = object.label;
    name.title = object.label;
    place.textContent = sayBox(box);
    const words = [];
    if (object.difficult) words.push("difficult");
    if (object.machine_made) words.push("by the model");
    marks.textContent = words.join(" · ");
  }
}
