// The list of images: only the rows in sight exist, so that ten thousand scroll as ten do.

import { fitted, letterWidth } from "./names.js";

const BESIDE = 5; // what stands in a row beside the name, in heights of its letters
const ROW = 36; // pixels, as in label.css
const SPARE = 6; // rows beyond each edge
const SIGNS = { todo: "○", done: "●", empty: "∅", skipped: "–" };
const WORDS = { todo: "to do", done: "done", empty: "no object", skipped: "skipped" };
const FILTERS = {
  all: () => true,
  todo: (image) => image.state === "todo",
  done: (image) => image.state === "done" || image.state === "empty",
  findings: (image) => image.findings > 0,
};

/** Events: "open" (detail: the number of the image that was chosen). */
export class Images extends EventTarget {
  constructor(root) {
    super();
    this.list = root.querySelector("#image-list");
    this.spacer = root.querySelector("#image-spacer");
    this.search = root.querySelector("#image-search");
    this.sort = root.querySelector("#image-sort");
    this.filters = [...root.querySelectorAll("input[name=image-filter]")];
    this.none = root.querySelector("#image-none");
    this.all = new Map();
    this.ranked = [];
    this.reasons = {};
    this.rows = []; // the numbers that are listed
    this.places = new Map(); // number -> its place among them
    this.current = null;
    this.cursor = 0;
    this.pool = [];
    this.width = 0; // that the names are shortened for
    this.shown = new Map(); // name -> how it is shown there
    this.list.addEventListener("scroll", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(this.list);
    this.list.addEventListener("click", (event) => {
      const row = event.target.closest("[data-number]");
      if (row) this.#choose(Number(row.dataset.number));
    });
    this.list.addEventListener("keydown", (event) => this.#key(event));
    this.list.addEventListener("focus", () => this.draw());
    this.search.addEventListener("input", () => this.filter());
    this.search.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && this.rows.length) this.#choose(this.rows[0]);
      else if (event.key === "ArrowDown") this.list.focus();
      else return;
      event.preventDefault();
    });
    this.sort.addEventListener("change", () => this.filter());
    for (const one of this.filters) one.addEventListener("change", () => this.filter());
  }

  /** Take the server's list: rows, the order of what to label next, and why. */
  fill({ images, order, reason }) {
    this.all = new Map();
    for (const [number, name, width, height, state, objects, findings] of images) {
      this.all.set(number, { number, name, width, height, state, objects, findings });
    }
    this.width = 0;
    this.reorder({ order, reason });
  }

  /** Take the order of what to label next, and why, alone. */
  reorder({ order, reason }) {
    const known = order.filter((number) => this.all.has(number));
    const seen = new Set(known);
    this.ranked = [...known, ...[...this.all.keys()].filter((number) => !seen.has(number))];
    this.reasons = reason ?? {};
    this.filter();
  }

  get filterName() {
    return this.filters.find((one) => one.checked)?.value ?? "all";
  }

  get order() {
    return this.sort.value === "name" ? [...this.all.keys()].sort((a, b) => a - b) : this.ranked;
  }

  /** List what the filters let through; the open image stays until it is left. */
  filter() {
    const lets = FILTERS[this.filterName];
    const words = this.search.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const isFound = (image) => {
      const name = image.name.toLowerCase();
      return words.every((word) => name.includes(word));
    };
    this.rows = this.order.filter((number) => {
      const image = this.all.get(number);
      return (lets(image) || (number === this.current && !words.length)) && isFound(image);
    });
    this.places = new Map(this.rows.map((number, place) => [number, place]));
    this.cursor = this.places.get(this.current) ?? 0;
    this.spacer.style.height = `${this.rows.length * ROW}px`;
    this.none.hidden = this.rows.length > 0;
    this.draw();
  }

  /** Note what an image has become. */
  update(number, { state, objects, findings }) {
    const image = this.all.get(number);
    if (!image) return;
    Object.assign(image, { state, objects });
    if (findings !== undefined) image.findings = findings;
    this.draw();
  }

  /** Mark an image as open and bring it into sight. */
  open(number) {
    this.current = number;
    this.filter();
    this.#show(this.cursor);
    this.draw();
  }

  get done() {
    let done = 0;
    for (const { state } of this.all.values()) if (state === "done" || state === "empty") done += 1;
    return done;
  }

  /** The number `by` places on in the list, or null at its end. */
  beside(by) {
    const place = this.places.get(this.current);
    if (place === undefined) return this.rows[0] ?? null;
    return this.rows[place + by] ?? null;
  }

  /** The next image that is to do after the open one, from the start again at the end. */
  nextToDo() {
    const { order } = this;
    const place = order.indexOf(this.current);
    const round = [...order.slice(place + 1), ...order.slice(0, Math.max(place, 0))];
    return round.find((number) => this.all.get(number).state === "todo") ?? null;
  }

  #choose(number) {
    this.dispatchEvent(new CustomEvent("open", { detail: number }));
  }

  #show(place) {
    const top = place * ROW;
    const { scrollTop, clientHeight } = this.list;
    if (top < scrollTop || top + ROW > scrollTop + clientHeight) {
      this.list.scrollTop = Math.max(0, top - clientHeight / 2 + ROW / 2);
    }
  }

  #key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const page = Math.max(1, Math.floor(this.list.clientHeight / ROW) - 1);
    const last = this.rows.length - 1;
    const to = {
      ArrowDown: this.cursor + 1, ArrowUp: this.cursor - 1, PageDown: this.cursor + page,
      PageUp: this.cursor - page, Home: 0, End: last,
    }[event.key];
    if (to !== undefined) this.cursor = Math.min(Math.max(to, 0), Math.max(last, 0));
    else if (event.key === "Enter" || event.key === " ") {
      if (this.rows[this.cursor] !== undefined) this.#choose(this.rows[this.cursor]);
    } else return;
    event.preventDefault();
    this.#show(this.cursor);
    this.draw();
  }

  #row(at) {
    while (this.pool.length <= at) {
      const row = document.createElement("div");
      row.className = "image-row";
      row.setAttribute("role", "option");
      for (const part of ["sign", "name", "count", "findings"]) {
        const cell = document.createElement("span");
        cell.className = part;
        row.append(cell);
      }
      this.spacer.append(row);
      this.pool.push(row);
    }
    return this.pool[at];
  }

  /** Shorten the names anew where the list has become wider or narrower. */
  #fit() {
    const { clientWidth } = this.list;
    if (clientWidth === this.width) return;
    this.width = clientWidth;
    const style = getComputedStyle(this.list);
    const space = clientWidth - BESIDE * parseFloat(style.fontSize);
    const room = Math.max(12, Math.floor(space / letterWidth(style)));
    this.shown = fitted([...this.all.values()].map(({ name }) => name), room);
  }

  draw() {
    this.#fit();
    const first = Math.max(0, Math.floor(this.list.scrollTop / ROW) - SPARE);
    const end = Math.min(this.rows.length, Math.ceil((this.list.scrollTop + this.list.clientHeight) / ROW) + SPARE);
    let active = "";
    for (let place = first; place < end; place += 1) {
      const row = this.#row(place - first);
      const image = this.all.get(this.rows[place]);
      this.#fill(row, image, place);
      if (place === this.cursor) active = row.id;
    }
    for (let at = Math.max(0, end - first); at < this.pool.length; at += 1) this.pool[at].hidden = true;
    if (active) this.list.setAttribute("aria-activedescendant", active);
    else this.list.removeAttribute("aria-activedescendant");
  }

  #fill(row, image, place) {
    const [sign, name, count, findings] = row.children;
    row.hidden = false;
    row.id = `image-${image.number}`;
    row.dataset.number = image.number;
    row.dataset.state = image.state;
    row.style.transform = `translateY(${place * ROW}px)`;
    row.setAttribute("aria-posinset", place + 1);
    row.setAttribute("aria-setsize", this.rows.length);
    row.setAttribute("aria-selected", image.number === this.current);
    row.classList.toggle("cursor", place === this.cursor);
    const words = [image.name, WORDS[image.state]];
    if (image.objects) words.push(`${image.objects} ${image.objects === 1 ? "object" : "objects"}`);
    if (image.findings) words.push(`${image.findings} ${image.findings === 1 ? "finding" : "findings"}`);
    row.setAttribute("aria-label", words.join(", "));
    const why = this.reasons[image.number];
    row.title = why ? `${words.join(", ")}\n${why}` : words.join(", ");
    sign.textContent = SIGNS[image.state] ?? "○";
    name.textContent = this.shown.get(image.name);
    count.textContent = image.objects || "";
    findings.textContent = image.findings ? `${image.findings}!` : "";
  }
}
