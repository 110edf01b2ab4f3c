// Boxes as pure values: [x1, y1, x2, y2] in pixels of the image, 0-based, half-open.
// What a hand draws or drags lands on whole pixels; what it does not touch keeps its fraction.

export const HANDLES = ["nw", "n", "ne", "e", "se", "s", "sw", "w"];

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

export function area([x1, y1, x2, y2]) {
  return Math.max(0, x2 - x1) * Math.max(0, y2 - y1);
}

export function contains([x1, y1, x2, y2], { x, y }) {
  return x >= x1 && x < x2 && y >= y1 && y < y2;
}

/** The overlap of two boxes: intersection over union, in [0, 1]. */
export function iou(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (width <= 0 || height <= 0) return 0;
  const shared = width * height;
  return shared / (area(a) + area(b) - shared);
}

/** The box between two corners in whole pixels inside the image, or null where it has no area. */
export function draw(from, to, { width, height }) {
  const xs = [from.x, to.x].map((x) => Math.round(clamp(x, 0, width))).sort((a, b) => a - b);
  const ys = [from.y, to.y].map((y) => Math.round(clamp(y, 0, height))).sort((a, b) => a - b);
  return xs[1] > xs[0] && ys[1] > ys[0] ? [xs[0], ys[0], xs[1], ys[1]] : null;
}

/** The box moved by whole pixels; it stops at the image's edge. */
export function move([x1, y1, x2, y2], dx, dy, { width, height }) {
  const right = clamp(Math.round(dx), Math.min(0, -x1), Math.max(0, width - x2));
  const down = clamp(Math.round(dy), Math.min(0, -y1), Math.max(0, height - y2));
  return [x1 + right, y1 + down, x2 + right, y2 + down];
}

function span(fixed, moved, size) {
  let end = clamp(Math.round(moved), 0, size);
  if (Math.abs(end - fixed) < 1) end = fixed + 1 <= size ? Math.ceil(fixed + 1) : Math.floor(fixed - 1);
  return end < fixed ? [end, fixed] : [fixed, end];
}

/** The box with the edges of a handle at a point; pulled over its other side it turns over. */
export function resize(box, handle, { x, y }, { width, height }) {
  let [x1, y1, x2, y2] = box;
  if (handle.includes("w")) [x1, x2] = span(x2, x, width);
  if (handle.includes("e")) [x1, x2] = span(x1, x, width);
  if (handle.includes("n")) [y1, y2] = span(y2, y, height);
  if (handle.includes("s")) [y1, y2] = span(y1, y, height);
  return [x1, y1, x2, y2];
}

/** The box with one edge moved by whole pixels, at least one pixel wide and inside the image. */
export function moveEdge(box, edge, by, { width, height }) {
  const result = [...box];
  const at = { w: 0, n: 1, e: 2, s: 3 }[edge];
  const [low, high] = at < 2 ? [0, box[at + 2] - 1] : [box[at - 2] + 1, at === 2 ? width : height];
  // An edge that lies outside already may come back, but goes no further.
  result[at] = clamp(box[at] + by, Math.min(low, box[at]), Math.max(high, box[at]));
  return result;
}

/** The part of a box inside an image, or null where less than a pixel is left. */
export function clip([x1, y1, x2, y2], { width, height }) {
  const inside = [clamp(x1, 0, width), clamp(y1, 0, height), clamp(x2, 0, width), clamp(y2, 0, height)];
  return inside[2] - inside[0] >= 1 && inside[3] - inside[1] >= 1 ? inside : null;
}

export function handlePoint([x1, y1, x2, y2], handle) {
  const x = handle.includes("w") ? x1 : handle.includes("e") ? x2 : (x1 + x2) / 2;
  const y = handle.includes("n") ? y1 : handle.includes("s") ? y2 : (y1 + y2) / 2;
  return { x, y };
}

/** How a box is said: its corner and its size, fractions with one digit. */
export function sayBox([x1, y1, x2, y2]) {
  const figure = (value) => String(Math.round(value * 10) / 10);
  return `${figure(x2 - x1)} × ${figure(y2 - y1)} at ${figure(x1)}, ${figure(y1)}`;
}
