// Names of images where there is little room: cut in the middle, what tells one from others kept.

const START = 6; // letters of a name's start that stay
const ROUNDS = 3; // places where names differ that are shown at most
const WIDE = /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uffe6]|\p{Extended_Pictographic}/u;
const LETTERS = /[^][\p{M}\u200d\ufe0f]*/gu; // with the accents that stand behind them
const CUT = "…";
const SAMPLE = "0123456789/abcdefghijklmnopqrstuvwxyz_-.0123456789";

/** Names by how they are shown in a room of so many letters, those alike by where they differ. */
export function fitted(names, room) {
  const shown = new Map();
  let alike = new Map([["", []]]); // what is shown -> names, and the places where they differ
  for (const name of names) {
    if (name.length <= room && !WIDE.test(name)) shown.set(name, name);
    else alike.get("").push({ name, letters: name.match(LETTERS) ?? [], places: [] });
  }
  for (let round = 0; round <= ROUNDS; round += 1) {
    const next = new Map();
    for (const group of alike.values()) {
      const place = round ? shared(group) : null;
      for (const one of group) {
        if (round) one.places.push(place);
        const text = shortened(one.letters, one.places, room);
        shown.set(one.name, text);
        if (next.has(text)) next.get(text).push(one);
        else next.set(text, [one]);
      }
    }
    alike = new Map([...next].filter(([, group]) => group.length > 1));
  }
  return shown;
}

/** How many letters all names of a group begin with. */
function shared(group) {
  const [{ letters: first }, ...others] = group;
  let place = first.length;
  for (const { letters } of others) {
    let at = 0;
    while (at < place && letters[at] === first[at]) at += 1;
    place = at;
  }
  return place;
}

/** A name whole; or its start, or else the words at some places, and as much of its end as fits. */
function shortened(letters, places, room) {
  const share = Math.floor(room / (places.length + 1));
  let text = "";
  let end = 0; // of what is taken
  let left = room;
  const take = (start, most) => {
    const number = fitting(letters, start, Math.min(most, left));
    const part = letters.slice(start, start + number);
    text += (start > end ? CUT : "") + part.join("");
    left -= widthOf(part) + (start > end ? 1 : 0);
    end = start + number;
  };
  if (fitting(letters, 0, room) === letters.length) return letters.join("");
  if (!places.length) take(0, Math.min(START, room / 3));
  for (const place of [...places].sort((a, b) => a - b)) {
    if (place >= end) take(Math.max(end, wordAt(letters, place, share / 3)), share - 1);
  }
  let start = letters.length;
  for (let used = 1; start > end; start -= 1) {
    used += widthOf(letters.slice(start - 1, start));
    if (used > left) break;
  }
  return text + (start > end ? CUT : "") + letters.slice(start).join("");
}

/** Where the word at a place begins, if it is no farther than that many letters before it. */
function wordAt(letters, place, most) {
  let start = place;
  while (start > Math.max(0, place - most) && /[\p{L}\p{N}]/u.test(letters[start - 1])) start -= 1;
  return start;
}

/** How many letters, from a place on, there is room for. */
function fitting(letters, start, room) {
  let number = 0;
  for (let used = 0; start + number < letters.length; number += 1) {
    used += widthOf([letters[start + number]]);
    if (used > room) break;
  }
  return number;
}

function widthOf(letters) {
  return letters.reduce((sum, letter) => sum + (letter >= "\u1100" && WIDE.test(letter) ? 2 : 1), 0);
}

/** Pixels of a letter on average, where text has this style and is bold. */
export function letterWidth({ fontSize, fontFamily }) {
  const context = document.createElement("canvas").getContext("2d");
  context.font = `600 ${fontSize} ${fontFamily}`;
  return context.measureText(SAMPLE).width / SAMPLE.length;
}

/** Put a name into an element whose `start` is cut where there is no room, and whose end stays. */
export function showName(element, name) {
  const letters = name.match(LETTERS) ?? [];
  const parts = [letters.slice(0, -16), letters.slice(-16)].map((part, at) => {
    const span = document.createElement("span");
    span.className = at ? "end" : "start";
    span.textContent = part.join("").replace(/[\n\r\t\u2028\u2029]/g, " ");
    return span;
  });
  element.replaceChildren(...parts);
  element.title = name;
}
