// Saving: what changed goes to the server at once, one request after another, until it is there.

import { Refused } from "./server.js";

const LONGEST_WAIT = 8000; // milliseconds between two tries
// What trying again cannot mend: the labels themselves are refused.
const FINAL = new Set([400, 413, 415, 422]);

/**
 * Sends labels in the order of their changes. Events: "status"; "saved" (detail: number);
 * "conflict" (detail: number, sent, now), where the image changed elsewhere; "held", where another
 * page holds the folder.
 */
export class Saving extends EventTarget {
  constructor(server, editor) {
    super();
    this.server = server;
    this.editor = editor; // a function: the page's own name
    this.waiting = new Map(); // number -> {content, due}, in order
    this.revisions = new Map();
    this.sending = null;
    this.failure = null;
    this.refused = null;
    this.tries = 0;
    this.timer = null;
    this.stopped = false;
  }

  get status() {
    if (this.failure) return { kind: "failed", why: this.failure, retrying: !this.stopped };
    if (this.refused) return { kind: "failed", why: this.refused, retrying: false };
    return { kind: this.has() ? "saving" : "saved", why: "", retrying: false };
  }

  /** Whether something of an image, or of any, is not on disk yet. */
  has(number = null) {
    if (number === null) return this.waiting.size > 0 || this.sending !== null;
    return this.waiting.has(number) || this.sending?.number === number;
  }

  get unsaved() {
    return this.has() || this.refused !== null;
  }

  /** Note the revision that a change of this image is based on. */
  know(number, revision) {
    this.revisions.set(number, revision);
  }

  put(number, content, delay = 0) {
    this.waiting.delete(number);
    this.waiting.set(number, { content, due: performance.now() + delay });
    this.refused = null;
    this.#tell();
    if (!this.failure) this.#plan(delay);
  }

  /** Send what waits, at once. */
  flush() {
    for (const one of this.waiting.values()) one.due = 0;
    if (!this.failure) this.#plan(0);
  }

  /** Try again now, as after a failure that may have passed. */
  again() {
    this.stopped = false;
    this.tries = 0;
    for (const one of this.waiting.values()) one.due = 0;
    this.#plan(0);
  }

  /** Send all that waits without awaiting what comes back: the page is being left. */
  leave() {
    for (const [number, { content }] of this.waiting) {
      const revision = (this.revisions.get(number) ?? 0) + (this.sending?.number === number ? 1 : 0);
      this.server.put(number, { editor: this.editor(), revision, ...content }).catch(() => {});
    }
  }

  #tell(name = "status", detail = null) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
    if (name !== "status") this.dispatchEvent(new CustomEvent("status"));
  }

  #plan(delay) {
    clearTimeout(this.timer);
    this.timer = null;
    if (this.stopped || this.sending || !this.waiting.size) return;
    if (delay > 0) this.timer = setTimeout(() => this.#send(), delay);
    else this.#send();
  }

  async #send() {
    const [first] = this.waiting;
    if (this.sending || this.stopped || !first) return;
    const [number, { content }] = first;
    this.waiting.delete(number);
    this.sending = { number, content };
    const revision = this.revisions.get(number) ?? 0;
    let failed = null;
    try {
      const answer = await this.server.put(number, { editor: this.editor(), revision, ...content });
      this.revisions.set(number, answer.revision);
    } catch (error) {
      failed = error instanceof Refused ? error : new Refused(0, String(error));
    }
    this.sending = null;
    if (!failed) this.#arrived(number);
    else this.#missed(number, content, failed);
    const [next] = this.waiting.values();
    if (next && !this.failure) this.#plan(Math.max(0, next.due - performance.now()));
  }

  #arrived(number) {
    this.failure = null;
    this.tries = 0;
    this.#tell("saved", { number, more: this.waiting.has(number) });
  }

  #missed(number, content, error) {
    if (error.status === 409) {
      const sent = this.waiting.get(number)?.content ?? content;
      this.waiting.delete(number);
      this.failure = null;
      this.revisions.set(number, error.answer.now?.revision);
      this.#tell("conflict", { number, sent, now: error.answer.now });
      return;
    }
    if (FINAL.has(error.status)) {
      this.failure = null;
      if (!this.waiting.has(number)) this.refused = error.message;
      this.#tell();
      return;
    }
    // It goes to the front again, unless something newer of the image waits already.
    if (!this.waiting.has(number)) {
      this.waiting = new Map([[number, { content, due: 0 }], ...this.waiting]);
    }
    this.failure = error.message;
    if (error.status === 423) {
      this.stopped = true;
      this.#tell("held");
      return;
    }
    this.tries += 1;
    this.#tell();
    this.timer = setTimeout(() => this.#send(), Math.min(LONGEST_WAIT, 500 * 2 ** this.tries));
  }
}
