// The image's pixels: a preview at once, a larger one where needed, tiles where one zooms in.

const SIDES = [256, 1024, 2048];
const KEEP = 96; // tiles of 512 x 512 pixels, a megabyte each
const AT_ONCE = 4;

function load(address) {
  const image = new Image();
  image.decoding = "async";
  image.src = address;
  return image.decode().then(() => image);
}

/** Events: "change" when there is more to draw; "failed" where there is nothing to be seen. */
export class Photo extends EventTarget {
  constructor(server) {
    super();
    this.server = server;
    this.ahead = null;
    this.clear();
  }

  clear() {
    this.number = null;
    this.previews = new Map(); // side -> image | "asked"
    this.tiles = new Map(); // "level x y" -> image, the last used last
    this.asked = new Set();
    this.failed = false;
  }

  open({ number, width, height }, tileSize) {
    this.clear();
    Object.assign(this, { number, width, height, tileSize });
    if (width === null) {
      this.failed = true;
      return;
    }
    this.longest = Math.max(width, height);
    if (this.longest > SIDES[0]) this.#preview(width * height < 1.5e6 ? SIDES[1] : SIDES[0]);
    else this.#preview(SIDES[0]);
  }

  /** Ask for the preview of the image that probably comes next. */
  prepare(number) {
    this.ahead = new Image();
    this.ahead.src = this.server.preview(number, SIDES[1]);
  }

  #change() {
    this.dispatchEvent(new Event("change"));
  }

  #preview(side, tries = 1) {
    if (this.previews.has(side)) return;
    const { number } = this;
    this.previews.set(side, "asked");
    load(this.server.preview(number, side)).then((image) => {
      if (number !== this.number) return;
      this.previews.set(side, image);
      this.failed = false;
      this.#change();
    }, () => {
      if (number !== this.number) return;
      if (![...this.previews.values()].some((one) => one instanceof Image)) {
        this.failed = true;
        this.dispatchEvent(new Event("failed"));
      }
      if (tries > 5) return; // else perhaps the server was away for a moment
      setTimeout(() => {
        if (number !== this.number) return;
        this.previews.delete(side);
        this.#preview(side, tries + 1);
      }, 1000 * tries);
    });
  }

  #tile(level, x, y) {
    const key = `${level} ${x} ${y}`;
    const found = this.tiles.get(key);
    if (found) {
      this.tiles.delete(key);
      this.tiles.set(key, found);
      return found;
    }
    if (this.asked.has(key) || this.asked.size >= AT_ONCE) return null;
    const { number } = this;
    this.asked.add(key);
    load(this.server.tile(number, level, x, y)).then((image) => {
      if (number !== this.number) return;
      this.asked.delete(key);
      this.tiles.set(key, image);
      while (this.tiles.size > KEEP) this.tiles.delete(this.tiles.keys().next().value);
      this.#change();
    }, () => {
      setTimeout(() => {
        if (number !== this.number) return;
        this.asked.delete(key);
        this.#change();
      }, 2000);
    });
    return null;
  }

  /** Draw what is seen of the image, as sharp as what has come allows, and ask for what lacks. */
  draw(context, view, dpr) {
    if (this.number === null || this.failed) return;
    const closeness = view.scale * dpr; // device pixels a pixel of the image
    const wanted = Math.min(this.longest, this.longest * closeness);
    this.#preview(SIDES.find((side) => side >= wanted) ?? SIDES.at(-1));
    const best = [...SIDES].reverse().find((side) => this.previews.get(side) instanceof Image);
    if (best === undefined) return;
    const whole = best >= this.longest;
    this.#place(context, view, dpr, this.previews.get(best), [0, 0, this.width, this.height], whole);
    if (this.longest <= SIDES.at(-1) || wanted <= SIDES.at(-1)) return;
    const coarsest = Math.ceil(Math.log2(this.longest / this.tileSize));
    const level = Math.min(Math.max(Math.floor(-Math.log2(closeness)), 0), coarsest);
    this.#drawTiles(context, view, dpr, level);
  }

  #drawTiles(context, view, dpr, level) {
    const reach = this.tileSize * 2 ** level; // pixels of the image a tile
    const [left, top, right, bottom] = view.seen;
    if (right <= left || bottom <= top) return;
    const middle = { x: (left + right) / 2, y: (top + bottom) / 2 };
    const places = [];
    for (let y = Math.floor(top / reach); y * reach < bottom; y += 1) {
      for (let x = Math.floor(left / reach); x * reach < right; x += 1) {
        places.push([x, y, Math.hypot((x + 0.5) * reach - middle.x, (y + 0.5) * reach - middle.y)]);
      }
    }
    places.sort((a, b) => a[2] - b[2]); // from the middle outwards
    for (const [x, y] of places) {
      const tile = this.#tile(level, x, y);
      const box = [
        x * reach, y * reach,
        Math.min((x + 1) * reach, this.width), Math.min((y + 1) * reach, this.height),
      ];
      if (tile) this.#place(context, view, dpr, tile, box, level === 0);
    }
  }

  /** Draw pixels over a box of the image, on whole device pixels so that tiles leave no seams. */
  #place(context, view, dpr, image, box, isWhole) {
    const from = view.toStage({ x: box[0], y: box[1] });
    const to = view.toStage({ x: box[2], y: box[3] });
    const [x1, y1, x2, y2] = [from.x, from.y, to.x, to.y].map((value) => Math.round(value * dpr));
    context.imageSmoothingEnabled = !(isWhole && view.scale * dpr > 1.2);
    context.imageSmoothingQuality = "high";
    context.drawImage(image, x1, y1, x2 - x1, y2 - y1);
  }
}
