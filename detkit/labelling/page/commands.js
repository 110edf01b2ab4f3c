// What each key does, in the order of the help. Gestures stand beside them, for the help alone.

import { draw, move, moveEdge } from "./boxes.js";

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const NAMES = Object.keys(ARROWS);

const stepOf = (event) => {
  const [dx, dy] = ARROWS[event.key];
  const by = event.shiftKey ? 10 : 1;
  return [dx * by, dy * by];
};

/** The table of keys over a page; `page` holds its parts and what leads from one to another. */
export function commandsOf(page) {
  const { desk, view, overlay, pointer } = page;

  function shift(event) {
    if (!desk.object) return false;
    if (desk.may()) desk.change({ box: move(desk.object.box, ...stepOf(event), desk.size) }, "move");
    return true;
  }

  function stretch(event, edges) {
    if (!desk.object) return false;
    if (!desk.may()) return true;
    const [dx, dy] = stepOf(event);
    const [edge, by] = dx ? [edges[0], dx] : [edges[1], dy];
    desk.change({ box: moveEdge(desk.object.box, edge, by, desk.size) }, `edge ${edge}`);
    return true;
  }

  /** Select the next of the boxes and the pre-labels; after the last one the focus goes on. */
  function cycle(way) {
    if (!desk.image) return false;
    const all = [
      ...desk.objects.map((_, index) => ({ kind: "object", index })),
      ...desk.offered.map((index) => ({ kind: "draft", index })),
    ];
    const now = all.findIndex(({ kind, index }) =>
      desk.selected?.kind === kind && desk.selected.index === index);
    const next = now < 0 ? (way > 0 ? 0 : all.length - 1) : now + way;
    desk.select(all[next] ?? null);
    if (!all[next]) return false;
    page.bringIntoSight();
    return true;
  }

  function place() {
    if (desk.selected?.kind === "draft") {
      page.acceptOne(desk.selected.index);
      return;
    }
    if (!desk.may()) return;
    const [left, top, right, bottom] = view.seen;
    const middle = { x: (left + right) / 2, y: (top + bottom) / 2 };
    const half = { x: Math.max((right - left) / 8, 1), y: Math.max((bottom - top) / 8, 1) };
    const from = { x: middle.x - half.x, y: middle.y - half.y };
    const to = { x: middle.x + half.x, y: middle.y + half.y };
    const box = draw(from, to, desk.size);
    if (box) desk.add(box);
  }

  function takeOne() {
    const chosen = desk.selected?.kind === "draft" ? desk.selected.index : page.draftUnderPointer();
    const index = chosen ?? desk.offered[0];
    if (index === undefined) page.snap();
    else page.acceptOne(index);
  }

  function escape() {
    if (pointer.cancel()) return;
    if (desk.nameless) {
      desk.nameless = null;
      desk.emit("change");
    } else desk.select(null);
    page.closePanels();
  }

  return [
    { part: "Images", keys: ["d", "PageDown"], text: "next image", turns: true, run: () => page.go(1) },
    { keys: ["ArrowRight"], written: "→", text: "next image, where no box is selected", onStage: true, turns: true, run: () => (desk.object ? false : page.go(1)) },
    { keys: ["a", "PageUp"], text: "previous image", turns: true, run: () => page.go(-1) },
    { keys: ["ArrowLeft"], written: "←", text: "previous image, where no box is selected", onStage: true, turns: true, run: () => (desk.object ? false : page.go(-1)) },
    { keys: ["n"], text: "next image that is still to do", turns: true, run: () => page.goToDo() },
    { keys: ["e"], text: "no object in this image (again: take that back)", run: () => desk.toggleState("empty") },
    { keys: ["k"], text: "skip this image (again: take that back)", run: () => desk.toggleState("skipped") },
    { keys: ["/"], text: "find an image by its name", run: () => page.find() },

    { part: "Boxes", written: "drag", text: "draw a box; its edges lie on whole pixels" },
    { written: "click", text: "select a box; again: the next one under the pointer" },
    { written: "drag a handle", text: "resize the selected box" },
    { written: "drag inside", text: "move the selected box; any box moves by its edge or its name" },
    { written: "Shift+drag", text: "draw inside the selected box too" },
    { keys: ["w"], text: "let go of the selected box, to draw", run: () => desk.select(null) },
    { keys: ["Enter"], text: "new box in the middle; take the selected pre-label", onStage: true, run: place },
    { keys: ["Tab"], text: "next box or pre-label; after the last one on to the buttons", onStage: true, run: () => cycle(1) },
    { keys: ["shift+Tab"], text: "the one before", onStage: true, run: () => cycle(-1) },
    { keys: NAMES, text: "move the selected box by 1 pixel", onStage: true, run: shift },
    { keys: NAMES.map((key) => `shift+${key}`), written: "Shift+arrow", text: "move it by 10 pixels", onStage: true, run: shift },
    { keys: NAMES.flatMap((key) => [`ctrl+${key}`, `ctrl+shift+${key}`]), written: "Ctrl+arrow", text: "move its right or lower edge (with Shift by 10)", onStage: true, run: (event) => stretch(event, ["e", "s"]) },
    { keys: NAMES.flatMap((key) => [`alt+${key}`, `alt+shift+${key}`]), written: "Alt+arrow", text: "move its left or upper edge (with Shift by 10)", onStage: true, run: (event) => stretch(event, ["w", "n"]) },
    { keys: ["Delete", "Backspace"], text: "delete the box, turn down the pre-label", run: () => desk.remove() },
    { keys: ["ctrl+d"], text: "duplicate the box", run: () => desk.duplicate() },
    { keys: ["p"], text: "copy the boxes of the image before", run: () => page.copyPrevious() },
    { keys: ["f"], text: "difficult, or not", run: () => desk.setDifficult() },
    { keys: ["ctrl+z"], text: "undo", run: () => desk.undo() },
    { keys: ["ctrl+y", "ctrl+shift+z"], text: "redo", run: () => desk.redo() },

    { part: "Classes", keys: ["1", "2", "3", "4", "5", "6", "7", "8", "9"], written: "1 to 9", text: "the class of the selected box, and of the next", run: (_, name) => page.classAt(Number(name) - 1) },
    { keys: ["c"], text: "find a class, or add one", run: () => page.findClass() },

    { part: "The model's pre-labels, and proposals", written: "click", text: "take a dashed pre-label" },
    { keys: ["y"], text: "take the pre-label that is selected, under the pointer, or the surest; without a model fit the box to its proposal", run: takeOne },
    { keys: ["shift+y"], text: "take all that are shown", run: () => page.acceptAll() },
    { keys: ["["], text: "lower the threshold", run: () => page.stepThreshold(-0.05) },
    { keys: ["]"], text: "raise the threshold", run: () => page.stepThreshold(0.05) },
    { written: "Shift+hover", text: "offer the proposal around the pointer; a click takes it" },
    { written: "Shift while drawing", text: "let go on the offered proposal: it is taken" },

    { part: "View", written: "wheel, pinch", text: "zoom at the pointer" },
    { written: "Space+drag, middle button, two fingers", text: "move the image" },
    { keys: ["+", "="], written: "+", text: "zoom in", run: () => page.zoom(1.4) },
    { keys: ["-"], text: "zoom out", run: () => page.zoom(1 / 1.4) },
    { keys: ["0"], text: "the whole image", run: () => page.fit() },
    { keys: ["z"], text: "one pixel of the image a pixel of the screen", run: () => page.zoomWhole() },
    { keys: ["b"], text: "look closely at the selected box", run: () => page.lookAtBox() },
    { keys: ["g"], text: "crosshair on or off", run: () => page.toggleGuides() },
    { keys: ["h"], text: "hide the boxes while held", run: () => { overlay.hideBoxes = true; page.redraw(); } },
    { keys: ["Escape"], text: "let go: of a drag, of a box, of a panel", run: escape },
    { keys: ["?"], text: "this help", run: () => page.help() },
    { keys: [" "], onStage: true, run: () => { pointer.space = true; page.redraw(); } },
  ];
}
