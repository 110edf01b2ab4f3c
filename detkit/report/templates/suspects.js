/* Suspects: a card each, answers by key or button, and the patch of the yeses. */

const suspects = JSON.parse(byId("data").textContent);
const cards = [...document.querySelectorAll("#suspects > li")];
const answers = new Map(); // row -> "y" or "n"
const history = []; // [row, the answer before]
const place = `detkit-suspects-${suspects.key}`;
let current = 0;
let patchAddress = null;

/** Put a box over a picture. */
function drawBox(svg, box, name) {
  if (!box) return;
  const [x1, y1, x2, y2] = box;
  svg.append(shape("rect", { class: `box ${name}`, x: x1, y: y1, width: Math.max(0, x2 - x1), height: Math.max(0, y2 - y1) }));
}

/** Put the picture and its boxes into a card. */
function drawPicture(card, row) {
  const { picture } = row;
  if (!picture) {
    card.querySelector("figure").append("no picture");
    return;
  }
  const { width, height } = picture;
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${row.words}: ${row.where}` });
  svg.append(shape("image", { href: picture.source, width, height }));
  drawBox(svg, picture.label, "label");
  drawBox(svg, picture.model, "model");
  card.querySelector("figure").append(svg);
}

/** Return whether a row passes the filters. */
function passes(index) {
  const row = suspects.rows[index];
  const wanted = byId("answer").value;
  const answer = answers.get(index) ?? "open";
  return (!byId("kind").value || row.kind === byId("kind").value)
    && (!byId("class").value || row.class === byId("class").value)
    && (!wanted || wanted === answer);
}

/** Return the patch of what was said yes to, in the order of the list. */
function patch() {
  const changes = suspects.rows.filter((_, index) => answers.get(index) === "y").map((row) => row.change);
  return { format: suspects.format, version: suspects.version, changes };
}

/** Show the answers, the count and the link as they are now. */
function show() {
  cards.forEach((card, index) => {
    card.dataset.answer = answers.get(index) ?? "";
    for (const button of card.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.value === answers.get(index)));
    }
  });
  const { changes } = patch();
  const shown = cards.filter((card) => !card.hidden).length;
  byId("count").textContent = `${shown} shown, ${answers.size} of ${cards.length} answered, ${changes.length} yes`;
  if (patchAddress) URL.revokeObjectURL(patchAddress);
  patchAddress = null;
  const link = byId("patch");
  link.textContent = `Download the patch (${changes.length})`;
  link.toggleAttribute("aria-disabled", !changes.length);
  if (changes.length) {
    const text = `${JSON.stringify(patch(), null, 1)}\n`;
    patchAddress = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.href = patchAddress;
  } else {
    link.removeAttribute("href");
  }
  try {
    localStorage.setItem(place, JSON.stringify([...answers]));
  } catch { /* a file opened from disk may have no storage */ }
}

/** Hide what does not pass the filters; the current card stays one that is shown. */
function filter() {
  cards.forEach((card, index) => { card.hidden = !passes(index); });
  if (!cards[current] || cards[current].hidden) {
    const first = cards.findIndex((card) => !card.hidden);
    mark(first < 0 ? 0 : first, false);
  }
  show();
}

/** Make a card the current one. */
function mark(index, scrolls = true) {
  cards[current]?.removeAttribute("aria-current");
  current = index;
  cards[current]?.setAttribute("aria-current", "true");
  if (scrolls) cards[current]?.focus();
}

/** Go to the next shown card by `step`, if there is one. */
function move(step) {
  for (let index = current + step; index >= 0 && index < cards.length; index += step) {
    if (!cards[index].hidden) {
      mark(index);
      return;
    }
  }
}

/** Answer for a row; the same answer again takes it back. */
function answer(index, value) {
  if (!cards[index] || cards[index].hidden) return;
  history.push([index, answers.get(index)]);
  if (value === undefined || answers.get(index) === value) answers.delete(index);
  else answers.set(index, value);
  show();
}

/** Take the last answer back. */
function undo() {
  const last = history.pop();
  if (!last) return;
  const [index, before] = last;
  if (before === undefined) answers.delete(index);
  else answers.set(index, before);
  cards[index].hidden = !passes(index);
  mark(index);
  show();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("select, input")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key === "y" || key === "n") {
    answer(current, key);
    if (answers.has(current)) move(1);
  } else if (key === "u") undo();
  else if (["j", "ArrowDown", "ArrowRight"].includes(key)) move(1);
  else if (["k", "ArrowUp", "ArrowLeft"].includes(key)) move(-1);
  else return;
  event.preventDefault();
});

cards.forEach((card, index) => {
  drawPicture(card, suspects.rows[index]);
  card.addEventListener("click", (event) => {
    mark(index, false);
    const button = event.target.closest("button");
    if (button) answer(index, button.value);
  });
});
for (const name of ["kind", "class", "answer"]) byId(name).addEventListener("change", filter);
byId("filters").addEventListener("submit", (event) => event.preventDefault());
try {
  for (const [index, value] of JSON.parse(localStorage.getItem(place) || "[]")) {
    if (cards[index]) answers.set(index, value);
  }
} catch { /* as above */ }
filter();
mark(current, false);
