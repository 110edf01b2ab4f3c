// The keys: one table for what they do and for the help that lists them.

const LETTER = /^[a-z]$/i;

/** The name of a key press as the table writes it: "ctrl+z", "shift+Tab", "d", "?". */
export function nameOf(event) {
  let { key } = event;
  const { code } = event;
  // On a keyboard of another script the letter's place counts.
  if (key.length === 1 && key.charCodeAt(0) > 126 && /^Key[A-Z]$/.test(code)) key = code.slice(3);
  if (LETTER.test(key)) key = key.toLowerCase();
  const words = [];
  if (event.ctrlKey || event.metaKey) words.push("ctrl");
  if (event.altKey) words.push("alt");
  if (event.shiftKey && (key.length > 1 || LETTER.test(key))) words.push("shift");
  return [...words, key].join("+");
}

const WRITTEN = {
  ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Delete: "Del", Escape: "Esc",
  PageDown: "Page Down", PageUp: "Page Up",
};

function write(name) {
  const parts = name.endsWith("++") ? [...name.slice(0, -2).split("+"), "+"] : name === "+" ? ["+"] : name.split("+");
  return parts.map((part) => WRITTEN[part] ?? (LETTER.test(part) ? part.toUpperCase() : part))
    .map((part) => part.replace(/^ctrl$/, "Ctrl").replace(/^alt$/, "Alt").replace(/^shift$/, "Shift"))
    .join("+");
}

/**
 * Listens to keys. `table` rows: {keys, text, run, onStage?, turns?, written?}; `run` may return false
 * where the key is not its own; rows with `onStage` work where no control has the focus, those with
 * `turns` open another image. A row without `run` is a gesture, for the help alone.
 */
export class Keys {
  constructor(table, stage, isBusy) {
    this.table = table;
    this.stage = stage;
    this.isBusy = isBusy; // whether an image is being opened
    this.waiting = []; // keys pressed meanwhile, which are for the image that comes
    this.rows = new Map();
    for (const row of table) {
      for (const key of row.keys ?? []) this.rows.set(key, [...(this.rows.get(key) ?? []), row]);
    }
    document.addEventListener("keydown", (event) => this.#press(event));
  }

  #press(event) {
    if (event.defaultPrevented || event.isComposing || document.querySelector("dialog[open]")) return;
    const { target } = event;
    const isText = target.matches("input:not([type=range], [type=radio], [type=checkbox]), textarea, select");
    if (isText) return;
    const onStage = target === this.stage || target === document.body;
    let name = nameOf(event);
    if (!this.rows.has(name) && /^Digit[1-9]$/.test(event.code) && !event.ctrlKey && !event.altKey) {
      name = event.code.slice(5); // keyboards whose digits need shift
    }
    if (!this.rows.has(name)) return;
    const press = { event, name, onStage };
    if (this.isBusy() && name !== "?" && (this.waiting.length || !this.#isTurn(name))) {
      this.waiting.push(press);
      event.preventDefault();
    } else if (this.#run(press)) event.preventDefault();
  }

  /** Whether a key turns to another image; such a one needs not wait for the image between. */
  #isTurn(name) {
    return this.rows.get(name).some((row) => row.turns);
  }

  #run({ event, name, onStage }) {
    const rows = this.rows.get(name).filter((row) => onStage || !row.onStage);
    return rows.some((row) => row.run(event, name) !== false);
  }

  /** Do what was asked for while an image was being opened, until the next one is. */
  goOn() {
    while (this.waiting.length && !this.isBusy()) this.#run(this.waiting.shift());
  }

  /** Forget what waits: the image did not come. */
  drop() {
    this.waiting = [];
  }

  /** Fill a table's body with what each key and gesture does, part by part. */
  fill(body) {
    let part = null;
    for (const row of this.table) {
      if (row.part !== undefined && row.part !== part) {
        part = row.part;
        const heading = document.createElement("th");
        heading.colSpan = 2;
        heading.scope = "rowgroup";
        heading.textContent = part;
        body.insertRow().append(heading);
      }
      if (!row.text) continue;
      const line = body.insertRow();
      const keys = line.insertCell();
      const words = row.written ? [row.written] : row.keys.map(write);
      words.forEach((word, index) => {
        if (index) keys.append(" ");
        const key = document.createElement(row.run ? "kbd" : "span");
        key.textContent = word;
        keys.append(key);
      });
      line.insertCell().textContent = row.text;
    }
  }
}
