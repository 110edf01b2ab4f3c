const MISSED = DATA.kinds.length - 1;

/** The worst images with their boxes, filtered by class, kind and score. */
function startPictures() {
  const form = byId("filters");
  const kinds = byId("kind-boxes");
  DATA.kinds.forEach((name, index) => {
    const words = element("span", { class: "kind" }, index === MISSED ? "missed object" : name);
    words.style.setProperty("--kind", `var(--${name})`);
    kinds.append(element("label", {}, element("input", { type: "checkbox", name: "kind", value: index, checked: "" }), " ", words));
  });
  DATA.classes.forEach((name, index) => form.elements.class.append(element("option", { value: index }, name)));
  const cards = DATA.pictures.map((picture, index) => {
    const canvas = element("div", { class: "canvas" });
    const words = element("span");
    const card = element("button", { type: "button", class: "card" }, canvas, element("span", {}, picture.name), words);
    card.addEventListener("click", () => viewer.open(index));
    const item = element("li", {}, card);
    byId("pictures").append(item);
    return { picture, canvas, words, item, visible: true };
  });

  /** Return what the filters ask for. */
  function wanted() {
    return {
      truth: form.elements.truth.checked,
      found: form.elements.found.checked,
      labels: form.elements.labels.checked,
      label: Number(form.elements.class.value),
      kinds: new Set([...form.querySelectorAll("[name=kind]:checked")].map((box) => Number(box.value))),
      score: evenly(LOW, HIGH, 100)[form.elements.score.value],
    };
  }

  /** Draw every card anew; those without a box that fits are hidden. */
  function update() {
    const filter = wanted();
    let count = 0;
    for (const card of cards) {
      const boxes = fitting(card.picture, filter);
      card.visible = boxes.objects.length + boxes.found.length > 0 || isOpen(filter);
      card.item.hidden = !card.visible;
      count += card.visible;
      if (card.visible) drawPicture(card.canvas, card.picture, boxes, filter.labels, 34);
      card.words.textContent = `${card.picture.wrong} wrong, ${card.picture.missed} missed`;
    }
    byId("picture-count").textContent = `${count} of ${cards.length} images`;
    viewer.refresh();
  }

  const isOpen = (filter) => filter.label < 0 && filter.kinds.size === DATA.kinds.length;

  const viewer = startViewer({
    count: () => cards.length,
    isVisible: (index) => cards[index].visible,
    show: (index) => {
      const { picture } = cards[index];
      const boxes = fitting(picture, wanted());
      const canvas = element("div", { class: "canvas" });
      drawPicture(canvas, picture, boxes, true, 18);
      return { title: picture.name, words: describe(boxes), canvas, shape: picture.width / picture.height };
    },
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", update);
  scoreSlider(form.elements.score, evenly(LOW, HIGH, 100), 30, (_, value) => {
    byId("score-value").textContent = figure(value, 2);
    update();
  });
}

/** Return the boxes of a picture that the filter lets through; an object is missed at its score. */
function fitting(picture, filter) {
  const ofClass = (label) => filter.label < 0 || label === filter.label;
  const found = picture.found.filter(([label, score, kind]) =>
    filter.found && ofClass(label) && score >= filter.score && filter.kinds.has(kind));
  const objects = picture.objects
    .map(([label, difficult, by, ...box]) => ({ label, difficult, by, box, missed: !difficult && (by === null || by < filter.score) }))
    .filter(({ label, missed }) => filter.truth && ofClass(label) && filter.kinds.has(missed ? MISSED : 0));
  return { found, objects };
}

/** Put an image and its boxes into a canvas. */
function drawPicture(canvas, picture, { found, objects }, labels, letter) {
  const overlay = shape("svg", { viewBox: `0 0 ${picture.width} ${picture.height}`, "aria-hidden": "true" });
  const places = [];
  const write = (text, x, y) => {
    // Boxes of one object begin at one corner: the second name stands below the first.
    while (places.some((place) => Math.abs(place.x - x) < 6 * letter && Math.abs(place.y - y) < letter)) y += letter;
    places.push({ x, y });
    names.append(shape("text", { x, y, "font-size": letter }, text));
  };
  const names = shape("g");
  const add = ([x1, y1, x2, y2], kind, colourName, text) => {
    const place = { x: x1, y: y1, width: Math.max(1, x2 - x1), height: Math.max(1, y2 - y1) };
    const box = shape("rect", { ...place, class: kind });
    if (colourName) box.style.setProperty("--kind", `var(--${colourName})`);
    overlay.append(shape("rect", { ...place, class: "under" }), box);
    if (labels && text) write(text, Math.max(2, x1 + 3), Math.max(letter, y1 - 4));
  };
  for (const { label, difficult, missed, box } of objects) {
    const state = missed ? "object is-missed" : difficult ? "object is-difficult" : "object";
    add(box, state, null, missed ? `${DATA.classes[label]} missed` : "");
  }
  for (const [label, score, kind, ...box] of [...found].reverse()) {
    add(box, "detection", DATA.kinds[kind], `${DATA.classes[label]} ${figure(score, 2)}`);
  }
  overlay.append(names);
  let image = canvas.querySelector("img");
  if (image === null) {
    image = element("img", { alt: "", width: picture.width, height: picture.height, loading: "lazy" });
    image.src = picture.source;
  }
  canvas.replaceChildren(image, overlay);
}

/** Return in words what a picture shows. */
function describe({ found, objects }) {
  const counts = new Map();
  for (const [, , kind] of found) counts.set(DATA.kinds[kind], (counts.get(DATA.kinds[kind]) ?? 0) + 1);
  const missed = objects.filter((one) => one.missed).map((one) => DATA.classes[one.label]);
  const words = [...counts].map(([name, count]) => `${count} ${name}`);
  if (missed.length) words.push(`missed: ${missed.join(", ")}`);
  return `${objects.length} labelled objects (dashed; missed ones yellow). Detections: ${words.join("; ") || "none"}.`;
}

startPictures();
