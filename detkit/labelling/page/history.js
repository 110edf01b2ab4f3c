// The history of one image's labels: every state it had, to go back to and forward again.

const MOMENT = 1000; // milliseconds within which presses of one key are one step

export class History {
  constructor(present) {
    this.past = [];
    this.present = present;
    this.future = [];
    this.merging = null;
    this.at = 0;
  }

  /** Take a new state; steps with one `merge` word in quick succession become one. */
  push(state, merge = null) {
    const now = performance.now();
    const same = merge !== null && merge === this.merging && now - this.at < MOMENT;
    if (!same) this.past.push(this.present);
    this.present = state;
    this.future = [];
    this.merging = merge;
    this.at = now;
  }

  undo() {
    if (!this.past.length) return null;
    this.future.push(this.present);
    this.present = this.past.pop();
    this.merging = null;
    return this.present;
  }

  redo() {
    if (!this.future.length) return null;
    this.past.push(this.present);
    this.present = this.future.pop();
    this.merging = null;
    return this.present;
  }
}
