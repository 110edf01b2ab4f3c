// Who may write: one page holds the folder, and says every few seconds that it is still there.

const EVERY = 3000;
const KEPT = "detkit-label-editor";
const ANSWERS_WITHIN = 120; // milliseconds in which a page of the same name would have spoken

/** Events: "change", when this page may write or may no longer; "beat" after each answer. */
export class Holder extends EventTarget {
  constructor(server) {
    super();
    this.server = server;
    this.editor = null;
    this.mayWrite = false;
    this.since = 0;
    this.reached = true;
    this.timer = null;
    this.heard = null;
  }

  /** Take up the name that this tab had before a reload, and ask for the folder. */
  async start() {
    const kept = sessionStorage.getItem(KEPT);
    this.#listen();
    this.editor = kept && !(await this.#isUsed(kept)) ? kept : null;
    await this.beat();
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.beat();
    });
  }

  #listen() {
    this.channel = new BroadcastChannel(`detkit-label ${location.pathname}`);
    this.channel.onmessage = ({ data }) => {
      if (!data.ask) this.heard = data.name;
      else if (data.name === this.editor) this.channel.postMessage({ ask: false, name: data.name });
    };
  }

  /** A tab that was duplicated has the other's memory: one that hears its own name gives it up. */
  async #isUsed(name) {
    this.channel.postMessage({ ask: true, name });
    await new Promise((done) => setTimeout(done, ANSWERS_WITHIN));
    return this.heard === name;
  }

  async beat(take = false) {
    clearTimeout(this.timer);
    const before = this.mayWrite;
    try {
      const answer = await this.server.editor(this.editor, take);
      this.editor = answer.editor;
      this.mayWrite = answer.may_write;
      this.since = answer.since;
      this.reached = true;
      sessionStorage.setItem(KEPT, this.editor);
    } catch {
      this.reached = false; // what it may do is found out when the server answers again
    }
    if (before !== this.mayWrite) this.dispatchEvent(new Event("change"));
    this.dispatchEvent(new Event("beat"));
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.beat(), EVERY);
  }

  takeOver() {
    return this.beat(true);
  }
}
