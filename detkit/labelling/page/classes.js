// The classes: nine by keys, any number by their names, and new ones.

import { hueOf } from "./overlay.js";

const SHOWN = 200; // more are found by typing

/** Events: "choose" (detail: name); "add" (detail: name of a class that is not there yet). */
export class Classes extends EventTarget {
  constructor(root, desk) {
    super();
    this.desk = desk;
    this.list = root.querySelector("#class-list");
    this.search = root.querySelector("#class-search");
    this.adding = root.querySelector("#class-add");
    this.more = root.querySelector("#class-more");
    this.hint = root.querySelector("#class-hint");
    this.search.addEventListener("input", () => this.draw());
    this.search.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.#enter();
      else return;
      event.preventDefault();
    });
    this.adding.addEventListener("click", () => this.#add());
    this.list.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) this.#choose(this.found[Number(button.dataset.at)]);
    });
  }

  /** What is typed, as the name that a new class would have. */
  get typed() {
    return this.search.value.trim().replace(/\s+/g, " ");
  }

  #choose(name) {
    this.search.value = "";
    this.dispatchEvent(new CustomEvent("choose", { detail: name }));
  }

  #add() {
    if (this.typed && !this.desk.classes.includes(this.typed)) {
      this.dispatchEvent(new CustomEvent("add", { detail: this.typed }));
    } else this.search.focus();
  }

  #enter() {
    const { typed } = this;
    if (this.desk.classes.includes(typed)) this.#choose(typed);
    else if (typed && this.found.length) this.#choose(this.found[0]);
    else this.#add();
  }

  draw() {
    const { desk } = this;
    const wanted = this.typed.toLowerCase();
    const hits = desk.classes.filter((name) => name.toLowerCase().includes(wanted));
    // What begins as typed comes first.
    hits.sort((a, b) => b.toLowerCase().startsWith(wanted) - a.toLowerCase().startsWith(wanted));
    this.found = wanted ? hits : [...desk.classes];
    const shown = this.found.slice(0, SHOWN);
    const now = desk.object?.label ?? desk.label ?? desk.classes[0];
    while (this.list.children.length > shown.length) this.list.lastElementChild.remove();
    shown.forEach((name, at) => this.#fill(this.list.children[at] ?? this.#line(), name, at, name === now));
    this.more.hidden = this.found.length <= SHOWN;
    this.more.textContent = `${this.found.length - SHOWN} more: type to find them`;
    this.adding.hidden = !this.typed || desk.classes.includes(this.typed);
    this.adding.textContent = `Add “${this.typed}”`;
    this.adding.disabled = desk.readOnly;
    this.hint.hidden = desk.classes.length > 0 && !desk.nameless;
    this.hint.textContent = desk.nameless
      ? "Name the new box’s class, then Enter."
      : "No class yet: type its name, then Enter.";
  }

  #line() {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    for (const part of ["swatch", "name", "key"]) {
      const cell = document.createElement("span");
      cell.className = part;
      button.append(cell);
    }
    item.append(button);
    this.list.append(item);
    return item;
  }

  #fill(item, name, at, isNow) {
    const [button] = item.children;
    const [swatch, word, key] = button.children;
    const index = this.desk.classes.indexOf(name);
    button.dataset.at = at;
    button.setAttribute("aria-pressed", isNow);
    button.title = name;
    swatch.style.setProperty("--hue", hueOf(index));
    word.textContent = name;
    key.textContent = index < 9 ? index + 1 : "";
  }
}
