"use strict";

const SVG = "http://www.w3.org/2000/svg";

/** Return the element of that id. */
const byId = (id) => document.getElementById(id);

/** Return a new HTML element; strings among the children are text, never markup. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Return a new SVG element. */
function shape(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Return a figure as the tables have it. */
const figure = (value, places = 3) => (value === null ? "n/a" : value.toFixed(places));

/** Colours by the system, or by what was chosen here; browsers may forbid to remember it. */
function startTheme() {
  const choices = byId("theme").elements;
  let kept = "auto";
  try {
    kept = localStorage.getItem("detkit-theme") || "auto";
  } catch { /* a file opened from disk may have no storage */ }
  const choose = (name) => {
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    try {
      localStorage.setItem("detkit-theme", name);
    } catch { /* as above */ }
  };
  for (const choice of choices) {
    if (choice.type !== "radio") continue;
    choice.checked = choice.value === kept;
    choice.addEventListener("change", () => choose(choice.value));
  }
  choose(["light", "dark"].includes(kept) ? kept : "auto");
}

/** Set up a slider over a range of scores; returns the steps' values. */
function scoreSlider(slider, values, start, changed) {
  slider.min = 0;
  slider.max = values.length - 1;
  slider.step = 1;
  slider.value = start;
  const tell = () => {
    slider.setAttribute("aria-valuetext", figure(values[slider.value], 2));
    changed(Number(slider.value), values[slider.value]);
  };
  slider.addEventListener("input", tell);
  tell();
}

/** Return count + 1 values, evenly from low to high. */
function evenly(low, high, count) {
  return Array.from({ length: count + 1 }, (_, step) => low + ((high - low) * step) / count);
}

startTheme();
