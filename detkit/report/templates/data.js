const FILTERS = byId("filters").elements;
const holds = (list, wanted) => wanted < 0 || list.includes(wanted);

/** Return what the filters ask for. */
function wanted() {
  return {
    label: Number(FILTERS.class.value),
    split: Number(FILTERS.split.value),
    severity: FILTERS.severity.value,
    code: FILTERS.code.value,
  };
}

/** Fill the filters with what there is to choose. */
function startFilters() {
  const fill = (select, names, numbered) =>
    names.forEach((name, place) => select.append(element("option", { value: numbered ? place : name }, name)));
  const distinct = (key) => [...new Set(DATA.findings.map((one) => one[key]))];
  fill(FILTERS.class, DATA.classes, true);
  fill(FILTERS.split, DATA.splits, true);
  fill(FILTERS.severity, distinct("severity"), false);
  fill(FILTERS.code, distinct("code").sort(), false);
}

/** Return a picture with its boxes, or the frame that stands for one that is not there. */
function drawShot(shot, named) {
  const around = framed(shot);
  const [left, top, width, height] = around;
  const canvas = element("div", { class: "canvas shot" });
  canvas.style.aspectRatio = `${width} / ${height}`;
  canvas.style.setProperty("--ratio", width / height);
  if (shot.source !== -1) {
    const image = element("img", { alt: "", loading: "lazy" });
    image.src = DATA.sources[shot.source] ?? shot.source;
    // Boxes may lie outside: then the image is a part of what is drawn.
    image.style.cssText = `left:${(-100 * left) / width}%;top:${(-100 * top) / height}%;` +
      `width:${(100 * shot.width) / width}%;height:${(100 * shot.height) / height}%`;
    canvas.append(image);
  } else {
    canvas.classList.add("no-picture");
    canvas.append(element("span", {}, shot.why));
  }
  const overlay = shape("svg", { viewBox: around.join(" "), "aria-hidden": "true" });
  const longer = Math.max(width, height);
  const letter = longer / (named ? 40 : 16);
  for (const [label, marked, x1, y1, x2, y2] of shot.boxes) {
    const [low, high] = [Math.min(x1, x2), Math.min(y1, y2)];
    // A point or a line is still to be seen.
    const [wide, tall] = [Math.abs(x2 - x1), Math.abs(y2 - y1)].map((side) => Math.max(side, longer / 60));
    const place = { x: low, y: high, width: wide, height: tall };
    if (marked) overlay.append(shape("rect", { ...place, class: "under" }));
    overlay.append(shape("rect", { ...place, class: marked ? "marked" : "beside" }));
    if (named && label >= 0 && (marked || shot.boxes.length <= 12)) {
      overlay.append(shape("text", { x: low, y: Math.max(top + letter, high - letter / 4), "font-size": letter }, DATA.classes[label]));
    }
  }
  canvas.append(overlay);
  return canvas;
}

/** Return [left, top, width, height] of a picture and the marked boxes around it, up to its size each way. */
function framed(shot) {
  let [left, top, right, bottom] = [0, 0, shot.width, shot.height];
  for (const [, marked, x1, y1, x2, y2] of shot.boxes) {
    if (!marked || shot.close) continue;
    left = Math.max(Math.min(left, x1, x2), -shot.width);
    top = Math.max(Math.min(top, y1, y2), -shot.height);
    right = Math.min(Math.max(right, x1, x2), 2 * shot.width);
    bottom = Math.min(Math.max(bottom, y1, y2), 2 * shot.height);
  }
  return [left, top, right - left, bottom - top];
}

/** Everything that opens large: { item (hidden or not), title, words, canvas(), shape }. */
const LARGE = [];
const viewer = startViewer({
  count: () => LARGE.length,
  isVisible: (index) => LARGE[index].item.offsetParent !== null,
  show: (index) => {
    const { title, words, draw, shape: ratio } = LARGE[index];
    return { title, words, canvas: draw(), shape: ratio };
  },
});

/** Return a button with a picture that opens it large. */
function opening(item, picture, large) {
  const index = LARGE.push({ item, ...large }) - 1;
  const button = element("button", { type: "button", class: "card" }, picture);
  button.addEventListener("click", () => viewer.open(index));
  return button;
}

/** The findings: pictures are drawn once a card comes near the window. */
function startFindings() {
  const cards = [...document.querySelectorAll(".finding")].map((item) => ({ item, ...DATA.findings[item.dataset.finding] }));
  const draw = ({ item, shots }) => {
    const text = item.querySelector(".finding-text").textContent;
    const drawn = shots.map((place) => {
      const shot = DATA.pictures[place];
      const [, , width, height] = framed(shot);
      const [wide, tall] = shot.whole;
      const size = shot.close ? "close up" : `${wide} x ${tall}`;
      const large = { title: shot.name, words: text, draw: () => drawShot(shot, true), shape: width / height };
      const button = opening(item, drawShot(shot, false), large);
      button.append(element("span", {}, shot.name), element("span", {}, size));
      button.setAttribute("aria-label", `${shot.name}, ${size}: open large`);
      return button;
    });
    item.querySelector(".shots").replaceChildren(...drawn);
  };
  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      watcher.unobserve(target);
      draw(cards.find((one) => one.item === target));
    }
  }, { rootMargin: "600px" });
  for (const card of cards) {
    if (card.shots.length) watcher.observe(card.item);
  }
  return () => {
    const filter = wanted();
    for (const card of cards) {
      card.item.hidden = !(holds(card.classes, filter.label) && holds(card.splits, filter.split) &&
        (!filter.severity || card.severity === filter.severity) && (!filter.code || card.code === filter.code));
    }
    for (const [id, list] of [["copy-count", "copies"], ["finding-count", "findings"]]) {
      if (byId(id) === null) continue;
      const all = [...byId(list).children];
      byId(id).textContent = `${all.filter((item) => !item.hidden).length} of ${all.length} shown`;
    }
  };
}

/** Objects of every class side by side. */
function startObjects() {
  const box = byId("objects");
  if (box === null) return () => {};
  const byClass = new Map();
  const crops = DATA.crops.filter((crop) => crop.class >= 0);
  for (const crop of crops) byClass.set(crop.class, [...(byClass.get(crop.class) ?? []), crop]);
  const rows = [...byClass].sort(([one], [other]) => one - other).map(([label, members]) => {
    const list = element("ul", { class: "crops" });
    const count = element("small");
    const row = element("section", { class: "of-class" }, element("h3", {}, DATA.classes[label], " ", count), list);
    box.append(row);
    const area = ({ box: [x1, y1, x2, y2] }) => (x2 - x1) * (y2 - y1);
    const items = members.sort((one, other) => area(one) - area(other)).map((crop) => {
      const [x1, y1, x2, y2] = crop.box;
      const size = `${Number((x2 - x1).toFixed(1))} x ${Number((y2 - y1).toFixed(1))}`;
      const shot = { ...crop, boxes: [[label, 1, x1, y1, x2, y2]], close: true, why: "" };
      const item = element("li");
      const where = [crop.kind, crop.splits.map((place) => DATA.splits[place]).join(", ")].filter(Boolean).join(", ");
      const large = {
        title: `${DATA.classes[label]}, ${size}`, words: `${crop.name} (${where})`,
        draw: () => drawShot(shot, false), shape: crop.width / crop.height,
      };
      const button = opening(item, drawShot(shot, false), large);
      button.append(element("span", {}, size), element("span", {}, crop.kind));
      button.title = crop.name;
      item.append(button);
      list.append(item);
      return { item, crop };
    });
    return { row, label, items, count };
  });
  return () => {
    const filter = wanted();
    let shown = 0;
    for (const { row, label, items, count } of rows) {
      let here = 0;
      for (const { item, crop } of items) {
        item.hidden = !holds(crop.splits, filter.split);
        here += !item.hidden;
      }
      row.hidden = !here || !holds([label], filter.label);
      shown += row.hidden ? 0 : here;
      count.textContent = `${here} of ${DATA.counts[label].toLocaleString("en")} labels`;
    }
    const classes = rows.filter(({ row }) => !row.hidden).length;
    byId("object-count").textContent = `${shown} objects of ${classes} ${classes === 1 ? "class" : "classes"} shown`;
  };
}

/** The objects on the image of a backend: a histogram of their sides, a dot a shape. */
function startSizes() {
  const choice = byId("size-model");
  if (choice === null) return () => {};
  const { models, classes, splits, edges } = DATA.sizes;
  models.forEach(({ name }, place) => choice.append(element("option", { value: place }, name)));
  const update = () => {
    const filter = wanted();
    const model = models[choice.value];
    const places = classes.map((_, place) => place)
      .filter((place) => holds([classes[place]], filter.label) && holds(splits[place], filter.split));
    drawSides(model, places, edges);
    drawShapes(model, places);
    const missed = places.filter((place) => !model.reached[place]).length;
    byId("size-reading").textContent =
      `${model.name}: ${missed} of ${places.length} objects are too small or out of reach`;
  };
  choice.addEventListener("change", update);
  return update;
}

const REACH = [["bar-right", "within"], ["bar-wrong", "out of reach"]];

function drawSides({ sides, reached }, places, edges) {
  const counts = edges.map(() => [0, 0]);
  for (const place of places) {
    const side = Math.sqrt(sides[place][0] * sides[place][1]);
    counts[edges.findLastIndex((edge) => edge <= side)][reached[place] ? 0 : 1] += 1;
  }
  const most = Math.max(1, ...counts.map(([good, bad]) => good + bad));
  const x = across(0, edges.length);
  const y = (count) => up(count / most);
  const chart = axes(byId("side-chart"), "Objects by their side on the network's image", {
    xTicks: edges.map((edge, bin) => [bin, String(edge)]), xLabel: "side, network pixels", yLabel: "objects", x, y,
    yTicks: [...new Set(evenly(0, most, 4).map(Math.round))].map((count) => [count, String(count)]),
  });
  counts.forEach((pair, bin) => {
    let below = 0;
    pair.forEach((count, kind) => {
      const bar = shape("rect", {
        class: REACH[kind][0], x: x(bin) + 2, width: x(1) - x(0) - 4,
        y: y(below + count), height: y(below) - y(below + count),
      });
      bar.append(shape("title", {}, `${count} ${REACH[kind][1]}, ${edges[bin]} ${edges[bin + 1] ? `to ${edges[bin + 1]}` : "and more"} pixels`));
      chart.append(bar);
      below += count;
    });
  });
  legend(chart, REACH, 110);
}

function drawShapes({ sides, reached }, places) {
  const ticks = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
  const log = (value) => Math.log2(Math.min(1024, Math.max(1, value)));
  const x = across(0, 10);
  const [wide, tall] = [(value) => x(log(value)), (value) => up(log(value) / 10)];
  const named = ticks.map((value) => [value, String(value)]);
  const chart = axes(byId("shape-chart"), "Width and height of each object on the network's image", {
    xTicks: named, yTicks: named, xLabel: "width", yLabel: "height", x: wide, y: tall,
  });
  for (const kind of [1, 0]) {
    for (const place of places) {
      if (reached[place] !== kind) continue;
      const [width, height] = sides[place];
      chart.append(shape("circle", { class: REACH[1 - kind][0], cx: wide(width).toFixed(1), cy: tall(height).toFixed(1), r: 3, opacity: 0.55 }));
    }
  }
  legend(chart, REACH, 110);
}

startFilters();
const UPDATES = [startFindings(), startObjects(), startSizes()];
const updateAll = () => UPDATES.forEach((update) => update());
byId("filters").addEventListener("change", updateAll);
byId("filters").addEventListener("submit", (event) => event.preventDefault());
updateAll();
