// What the model offers: its pre-labels with their threshold, or proposals where there is none.

const FIRST_WAIT = 300; // milliseconds until the server is asked again
const LONGEST_WAIT = 3000;
const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

export class Models {
  constructor(root, server, desk) {
    Object.assign(this, { server, desk });
    this.state = { model: null, proposals: false };
    this.part = root.querySelector("#drafts");
    this.name = root.querySelector("#model-name");
    this.status = root.querySelector("#draft-status");
    this.slider = root.querySelector("#threshold");
    this.value = root.querySelector("#threshold-value");
    this.all = root.querySelector("#accept-all");
    this.proposalPart = root.querySelector("#proposals");
    this.proposalStatus = root.querySelector("#proposal-status");
    this.asked = 0; // each image asks anew, and an old answer counts no more
    this.failure = "";
    this.slider.addEventListener("input", () => this.setThreshold(Number(this.slider.value)));
  }

  /** Take what the server says of its model; the generation whose pre-labels are shown stays. */
  take(state) {
    this.state = state;
    this.draw();
  }

  setThreshold(value) {
    const least = Number(this.slider.min);
    const inside = Math.round(Math.min(Math.max(value, least), 1) * 100) / 100;
    sessionStorage.setItem("detkit-label-threshold", inside);
    this.slider.value = inside;
    this.desk.setThreshold(inside);
  }

  /** Ask for what belongs to the open image, again and again until it is ready. */
  load() {
    const { image } = this.desk;
    this.asked += 1;
    this.failure = "";
    if (!image || image.width === null) return;
    if (this.state.model) this.#ask("drafts", image.number, this.asked, FIRST_WAIT);
    if (this.state.proposals) this.#ask("proposals", image.number, this.asked, FIRST_WAIT);
  }

  async #ask(what, number, asked, wait) {
    let answer;
    try {
      answer = await this.server[what](number);
    } catch (error) {
      answer = { status: "waiting", message: error.message };
    }
    if (asked !== this.asked || this.desk.image?.number !== number) return;
    if (answer.status === "waiting") {
      this.failure = answer.message ?? "";
      setTimeout(() => {
        if (asked === this.asked) this.#ask(what, number, asked, Math.min(wait * 1.5, LONGEST_WAIT));
      }, wait);
      if (what === "drafts") this.desk.drafts.status = "waiting";
      else this.desk.proposals.status = "waiting";
      this.draw();
    } else if (what === "drafts") {
      this.failure = answer.message ?? answer.error ?? "";
      this.desk.setDrafts({ detections: [], ...answer });
    } else {
      this.desk.proposals = { boxes: [], ...answer };
      this.draw();
    }
  }

  draw() {
    const { desk, state } = this;
    this.part.hidden = !state.model;
    this.proposalPart.hidden = !state.proposals;
    if (state.model) this.#drawDrafts();
    if (state.proposals) {
      this.proposalStatus.textContent = {
        ready: `${count(desk.proposals.boxes.length, "proposal")}. Hold Shift over the image to see the one under the pointer.`,
        waiting: "Looking for them…",
        failed: "None could be made of this image.",
      }[desk.proposals.status] ?? "";
    }
  }

  #drawDrafts() {
    const { desk, state } = this;
    const { name, map } = state.model;
    this.name.textContent = typeof map === "number" ? `${name} · mAP ${map.toFixed(2)}` : name;
    const shown = desk.offered.length;
    const all = desk.drafts.detections.length;
    this.status.textContent = {
      ready: all ? `${shown} of ${all} shown, dashed; a click takes one` : "The model found nothing here.",
      waiting: this.failure || "The model looks at the image…",
      failed: `The model failed${this.failure ? `: ${this.failure}` : " on this image"}`,
    }[desk.drafts.status] ?? "";
    this.value.textContent = desk.threshold.toFixed(2);
    this.slider.setAttribute("aria-valuetext", `${desk.threshold.toFixed(2)}, ${shown} shown`);
    this.all.textContent = `Accept all ${shown || ""}`.trim();
    this.all.disabled = !shown || desk.readOnly;
  }
}
