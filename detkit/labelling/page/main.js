// Starts the page: asks the server, ties keys and buttons to what they do, keeps up with changes.

import { Keys } from "./keys.js";
import { Page } from "./page.js";
import { commandsOf } from "./commands.js";
import { server } from "./server.js";

const find = (name) => document.getElementById(name);
const page = new Page();
const { desk, holder, images, models, pointer, saving, overlay, stage } = page;
const keys = new Keys(commandsOf(page), stage, () => page.isOpening);
keys.fill(find("help-rows"));
page.addEventListener("opened", () => keys.goOn());
page.addEventListener("failed", () => keys.drop());

const ACTIONS = {
  previous: () => page.go(-1),
  next: () => page.go(1),
  undo: () => desk.undo(),
  redo: () => desk.redo(),
  remove: () => desk.remove(),
  duplicate: () => desk.duplicate(),
  difficult: () => desk.setDifficult(),
  empty: () => desk.toggleState("empty"),
  copy: () => page.copyPrevious(),
  "zoom-in": () => page.zoom(1.4),
  "zoom-out": () => page.zoom(1 / 1.4),
  "zoom-whole": () => page.zoomWhole(),
  fit: () => page.fit(),
  help: () => page.help(),
  snap: () => page.snap(),
  "accept-all": () => page.acceptAll(),
  "take-over": () => holder.takeOver(),
  "close-conflict": () => { find("conflict").hidden = true; },
  "show-better": () => showBetter(),
  "images-panel": () => page.togglePanel("images-panel"),
  "boxes-panel": () => page.togglePanel("boxes-panel"),
};

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  ACTIONS[button.dataset.do]?.();
  // After a click of the mouse the keys go to the image again; the keyboard's focus stays.
  if (event.detail > 0 && button.dataset.do !== "help" && !button.closest("dialog")) {
    if (!document.activeElement.matches("input[type=search]")) stage.focus({ preventScroll: true });
  }
});
for (const radio of document.querySelectorAll("input[name=state]")) {
  radio.addEventListener("change", () => desk.setState(radio.value));
}
find("offering").addEventListener("change", ({ target }) => {
  pointer.offering = target.checked;
  pointer.hover();
  page.redraw();
});
for (const search of document.querySelectorAll("input[type=search]")) {
  search.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    search.value = "";
    search.dispatchEvent(new Event("input"));
    page.closePanels();
    stage.focus({ preventScroll: true });
    if (desk.nameless) {
      desk.nameless = null;
      desk.emit("change");
    }
    event.preventDefault();
  });
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Shift") offerWithShift(true);
});
document.addEventListener("keyup", (event) => {
  if (event.key === "Shift") offerWithShift(false);
  if (event.key === " ") pointer.space = false;
  if (event.key.toLowerCase() === "h") overlay.hideBoxes = false;
  page.redraw();
});
window.addEventListener("blur", () => {
  pointer.space = pointer.shift = overlay.hideBoxes = false;
  page.redraw();
});

function offerWithShift(held) {
  pointer.shift = held;
  if (!pointer.gesture) pointer.hover();
  page.redraw();
}

// Saving, and who may write

saving.addEventListener("status", () => {
  const { kind, why, retrying } = saving.status;
  const words = { saved: "Saved", saving: "Saving" };
  find("saving").dataset.kind = kind;
  find("saving").textContent = words[kind] ?? `NOT SAVED: ${why}${retrying ? "; retrying" : ""}`;
});
saving.addEventListener("saved", ({ detail }) => {
  clearTimeout(page.checks);
  if (!detail.more) page.checks = setTimeout(() => readFindings(detail.number), 300);
});
saving.addEventListener("conflict", ({ detail: { number, sent, now } }) => {
  if (!now || !desk.takeOther(now, sent)) return;
  const name = images.all.get(number)?.name ?? number;
  images.update(number, { state: now.state, objects: now.objects.length, findings: now.findings.length });
  const back = desk.image?.number === number ? "undo brings yours back" : "open it and undo brings yours back";
  find("conflict").querySelector("span").textContent =
    `${name} was changed elsewhere meanwhile. Shown is what is on disk; ${back}.`;
  find("conflict").hidden = false;
});
saving.addEventListener("held", () => {
  holder.mayWrite = false;
  showHolder();
});

/** Ask what `check` says of an image now that it is saved. */
async function readFindings(number) {
  try {
    const record = await server.image(number);
    if (saving.has(number) || record.revision !== saving.revisions.get(number)) return;
    images.update(number, { state: record.state, objects: record.objects.length, findings: record.findings.length });
    if (desk.image?.number !== number) return;
    desk.findings = record.findings;
    desk.emit("findings");
  } catch {
    // The next save asks again.
  }
}

function showHolder() {
  desk.readOnly = !holder.mayWrite;
  const seconds = Math.round(holder.since);
  find("read-only").hidden = holder.mayWrite;
  find("read-only").querySelector("span").textContent =
    "Another page writes to this folder, so this one only shows it"
    + (seconds > 5 ? ` (silent for ${seconds} s).` : ".");
  desk.emit("change");
}

holder.addEventListener("change", async () => {
  showHolder();
  if (!holder.mayWrite || !page.state) return;
  if (saving.has()) saving.again();
  await refresh();
});
holder.addEventListener("beat", () => {
  if (!holder.mayWrite && holder.reached) showHolder();
  if (page.state) keepUp();
});

window.addEventListener("beforeunload", (event) => {
  saving.flush();
  if (saving.unsaved) event.preventDefault();
});
window.addEventListener("pagehide", () => saving.leave());
document.addEventListener("visibilitychange", () => {
  if (document.hidden) saving.flush();
});
window.addEventListener("hashchange", () => {
  const number = Number(location.hash.slice(1));
  if (images.all.has(number) && number !== desk.image?.number) page.open(number);
});

// Keeping up with the server

async function refresh() {
  try {
    const [list, record] = await Promise.all([
      server.images(), desk.image ? server.image(desk.image.number) : null,
    ]);
    images.fill(list);
    if (record && !saving.has(record.number)) desk.takeOther(record, null);
    desk.emit("change");
  } catch {
    // The next beat finds out.
  }
}

async function keepUp() {
  let state;
  try {
    state = await server.state();
  } catch {
    return;
  }
  const before = page.state;
  page.state = state;
  if (JSON.stringify(state.classes) !== JSON.stringify(before.classes)) page.setClasses(state.classes);
  if (state.changes !== before.changes && desk.readOnly) await refresh();
  else if (state.ranked !== before.ranked) await reorder();
  showTraining(state.training);
  showTrouble(state.trouble);
  const grew = state.model && state.model.generation > page.generation;
  models.take(state);
  if (!grew) return;
  const map = typeof state.model.map === "number" ? ` (mAP ${state.model.map.toFixed(2)})` : "";
  find("better").querySelector("span").textContent =
    `Better pre-labels are there: the model has learnt from your boxes${map}. Your boxes stay as they are.`;
  find("better").hidden = false;
}

/** Take the server's newest order; the open image stays. */
async function reorder() {
  try {
    images.reorder(await server.images());
  } catch {
    // The order stays as it was.
  }
}

/** Show the newest model's pre-labels and its order; no box of the user's changes. */
async function showBetter() {
  find("better").hidden = true;
  page.generation = page.state.model?.generation ?? 0;
  models.load();
  try {
    images.fill(await server.images());
  } catch {
    // The order stays as it was.
  }
}

function showTraining(training) {
  const line = find("training");
  line.hidden = !training;
  if (!training) return;
  line.dataset.status = training.status;
  const words = { running: "Training on your boxes", failed: "Training failed", done: "Trained" };
  const at = training.at ? ` (${training.at} images)` : "";
  line.textContent = `${words[training.status] ?? ""}${at}${training.message ? `: ${training.message}` : ""}`;
}

/** Say why label files are behind the journal, as on a full disk; nothing is lost. */
function showTrouble(trouble) {
  find("trouble").hidden = !trouble;
  find("trouble").textContent = trouble ?? "";
}

async function start() {
  await holder.start();
  let list;
  try {
    [page.state, list] = await Promise.all([server.state(), server.images()]);
  } catch (error) {
    page.note(`${error.message}. Trying again…`);
    setTimeout(start, 2000);
    return;
  }
  const { state } = page;
  page.generation = state.model?.generation ?? 0;
  const kept = Number(sessionStorage.getItem("detkit-label-threshold"));
  desk.readOnly = !holder.mayWrite;
  showHolder();
  models.take(state);
  models.setThreshold(kept || state.threshold);
  page.setClasses(state.classes);
  images.fill(list);
  showTraining(state.training);
  showTrouble(state.trouble);
  const asked = Number(location.hash.slice(1));
  const first = images.all.has(asked) && location.hash ? asked
    : images.ranked.find((number) => images.all.get(number).state === "todo") ?? images.rows[0];
  if (first === undefined) page.note("There is no image in this folder.");
  else await page.open(first);
  stage.focus({ preventScroll: true });
  document.documentElement.dataset.ready = "yes";
}

start();
