// What the page asks of its server; all addresses are relative to the page's own.

/** A request that was refused (`status`, and what the server said), or found nobody (status 0). */
export class Refused extends Error {
  constructor(status, message, answer = {}) {
    super(message);
    this.status = status;
    this.answer = answer;
  }
}

async function ask(method, address, body, keepalive = false) {
  const options = { method, cache: "no-store", redirect: "error", credentials: "same-origin" };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { "Content-Type": "application/json" };
    // A request that may outlive the page holds 64 KiB at most, by the standard.
    options.keepalive = keepalive && options.body.length < 20000;
  }
  let response;
  try {
    response = await fetch(address, options);
  } catch {
    throw new Refused(0, "detkit label does not answer; is it still running?");
  }
  let answer = {};
  try {
    answer = await response.json();
  } catch {
    if (response.ok) throw new Refused(0, "the answer broke off");
  }
  if (response.ok) return answer;
  const why = answer.error || `${response.status} ${response.statusText}`;
  throw new Refused(response.status, why, answer);
}

export const server = {
  state: () => ask("GET", "state"),
  images: () => ask("GET", "images"),
  image: (number) => ask("GET", `images/${number}`),
  drafts: (number) => ask("GET", `images/${number}/drafts`),
  proposals: (number) => ask("GET", `images/${number}/proposals`),
  put: (number, content) => ask("PUT", `images/${number}`, content, true),
  editor: (editor, take) => ask("POST", "editor", { editor, take }),
  addClass: (editor, name) => ask("POST", "classes", { editor, name }),
  preview: (number, side) => `images/${number}/preview?side=${side}`,
  tile: (number, level, x, y) => `images/${number}/tile?level=${level}&x=${x}&y=${y}`,
};
