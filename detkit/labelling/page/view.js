// Where the image lies on the stage: a scale and an offset, in CSS pixels of the stage.

const MARGIN = 16;
const CLOSEST = 64; // CSS pixels a pixel of the image
export const GRID_FROM = 8; // the scale from which the pixel grid is drawn

export class View {
  constructor() {
    this.stage = { width: 1, height: 1 };
    this.image = { width: 1, height: 1 };
    this.scale = 1;
    this.left = 0;
    this.top = 0;
    this.fitted = true;
  }

  /** Show another image, whole. */
  show(image) {
    this.image = { width: image.width || 1, height: image.height || 1 };
    this.fit();
  }

  /** Take a new size of the stage; what was fitted stays so, else the middle stays the middle. */
  setStage(width, height) {
    const middle = this.toImage({ x: this.stage.width / 2, y: this.stage.height / 2 });
    this.stage = { width, height };
    if (this.fitted) return this.fit();
    this.left = width / 2 - middle.x * this.scale;
    this.top = height / 2 - middle.y * this.scale;
    return this.keepInSight();
  }

  get fittingScale() {
    const width = Math.max(1, this.stage.width - 2 * MARGIN);
    const height = Math.max(1, this.stage.height - 2 * MARGIN);
    return Math.min(width / this.image.width, height / this.image.height, CLOSEST);
  }

  fit() {
    this.scale = this.fittingScale;
    this.left = (this.stage.width - this.image.width * this.scale) / 2;
    this.top = (this.stage.height - this.image.height * this.scale) / 2;
    this.fitted = true;
  }

  /** Zoom by a factor; the point of the image under `at` (CSS pixels of the stage) stays there. */
  zoom(factor, at = { x: this.stage.width / 2, y: this.stage.height / 2 }) {
    this.zoomTo(this.scale * factor, at);
  }

  zoomTo(wanted, at = { x: this.stage.width / 2, y: this.stage.height / 2 }) {
    const least = Math.min(this.fittingScale, 1) / 4;
    const scale = Math.min(Math.max(wanted, least), CLOSEST);
    const point = this.toImage(at);
    this.scale = scale;
    this.left = at.x - point.x * scale;
    this.top = at.y - point.y * scale;
    this.fitted = false;
    this.keepInSight();
  }

  pan(dx, dy) {
    this.left += dx;
    this.top += dy;
    this.fitted = false;
    this.keepInSight();
  }

  /** Bring a box into the middle, with as much around it again as it is large. */
  look(box) {
    const width = Math.max(1, box[2] - box[0]);
    const height = Math.max(1, box[3] - box[1]);
    const close = Math.min(this.stage.width / width, this.stage.height / height) / 3;
    this.scale = Math.min(Math.max(close, this.fittingScale), CLOSEST / 2);
    this.left = this.stage.width / 2 - ((box[0] + box[2]) / 2) * this.scale;
    this.top = this.stage.height / 2 - ((box[1] + box[3]) / 2) * this.scale;
    this.fitted = false;
    this.keepInSight();
  }

  /** Some of the image always stays on the stage. */
  keepInSight() {
    const across = Math.min(80, this.image.width * this.scale);
    const down = Math.min(80, this.image.height * this.scale);
    const { width, height } = this.stage;
    this.left = Math.min(Math.max(this.left, across - this.image.width * this.scale), width - across);
    this.top = Math.min(Math.max(this.top, down - this.image.height * this.scale), height - down);
  }

  toImage({ x, y }) {
    return { x: (x - this.left) / this.scale, y: (y - this.top) / this.scale };
  }

  toStage({ x, y }) {
    return { x: this.left + x * this.scale, y: this.top + y * this.scale };
  }

  /** The part of the image that is to be seen, as a box. */
  get seen() {
    const from = this.toImage({ x: 0, y: 0 });
    const to = this.toImage({ x: this.stage.width, y: this.stage.height });
    return [
      Math.max(0, from.x), Math.max(0, from.y),
      Math.min(this.image.width, to.x), Math.min(this.image.height, to.y),
    ];
  }
}
