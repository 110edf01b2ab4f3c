const DATA = JSON.parse(byId("data").textContent);
const [LOW, HIGH] = DATA.range;
const HUES = [212, 24, 150, 330, 48, 268, 186, 0];

/** Return a class's colour, its lightness left to the theme. */
function colour(index) {
  const hue = HUES[index] ?? (index * 137.5) % 360;
  return `hsl(${hue} 75% var(--hue-light))`;
}

const DASHES = ["none", "7 3", "2 3", "9 3 2 3"];
const dash = (index) => DASHES[Math.floor(index / HUES.length) % DASHES.length];

const TENTHS = [0, 0.2, 0.4, 0.6, 0.8, 1].map((value) => [value, value.toFixed(1)]);
const scoreTicks = () => evenly(LOW, HIGH, 5).map((value) => [value, value.toFixed(HIGH - LOW > 3 ? 1 : 2)]);

/** Precision over recall: a curve a class, the threshold under the pointer and by a slider. */
function startCurves() {
  const x = across(0, 1);
  const chart = axes(byId("curves"), "Precision over recall, a curve a class; the table beside it has the figures", {
    xTicks: TENTHS, yTicks: TENTHS, xLabel: "recall", yLabel: "precision", x, y: up,
  });
  const body = byId("legend").tBodies[0];
  const shown = new Set();
  const rows = DATA.classes.map((name, index) => {
    const { ap, points, at } = DATA.curves[index];
    if (ap === null) return null;
    const style = { stroke: colour(index), "stroke-dasharray": dash(index) };
    const start = points.length ? `M${x(0)} ${up(points[0][1])}` : "";
    const line = shape("path", {
      class: "curve", ...style,
      d: start + points.map(([recall, precision]) => `H${x(recall).toFixed(1)}V${up(precision).toFixed(1)}`).join(""),
    });
    const mark = shape("circle", { class: "mark", r: 5, fill: colour(index) });
    const box = element("input", { type: "checkbox" });
    const swatch = element("span", { class: "swatch" });
    swatch.style.background = colour(index);
    const figures = [element("td"), element("td")];
    const head = element("th", { scope: "row" }, element("label", {}, box, swatch, name));
    body.append(element("tr", {}, head, element("td", {}, figure(ap)), ...figures));
    chart.append(line, mark);
    const row = { index, points, at, line, mark, box, figures, name, ap };
    box.addEventListener("change", () => show(row, box.checked));
    return row;
  }).filter(Boolean);

  function show(row, on) {
    row.box.checked = on;
    shown[on ? "add" : "delete"](row);
    row.line.toggleAttribute("hidden", !on);
    row.mark.toggleAttribute("hidden", !on || row.precision === null);
  }
  function mark(step) {
    for (const row of rows) {
      const [precision, recall] = row.at[step];
      row.precision = precision;
      row.figures[0].textContent = figure(precision);
      row.figures[1].textContent = figure(recall);
      row.mark.setAttribute("cx", x(recall));
      row.mark.setAttribute("cy", up(precision ?? 0));
      row.mark.toggleAttribute("hidden", precision === null || !shown.has(row));
    }
  }
  // Many curves cannot be told apart: the weakest ten are what one looks for first.
  const weakest = [...rows].sort((one, other) => one.ap - other.ap).slice(0, rows.length > 20 ? 10 : 20);
  for (const row of rows) show(row, weakest.includes(row));
  byId("curves-all").addEventListener("click", () => rows.forEach((row) => show(row, true)));
  byId("curves-none").addEventListener("click", () => rows.forEach((row) => show(row, false)));
  scoreSlider(byId("threshold"), evenly(LOW, HIGH, 100), 50, (step, value) => {
    byId("threshold-value").textContent = figure(value, 2);
    mark(step);
  });

  const pointer = shape("circle", { r: 6, fill: "none", stroke: "var(--ink)", "stroke-width": 2, hidden: "" });
  chart.append(pointer);
  chart.addEventListener("pointermove", (event) => {
    const corner = chart.getBoundingClientRect();
    const scale = PLOT.width / corner.width;
    const at = [(event.clientX - corner.left) * scale, (event.clientY - corner.top) * scale];
    let best = null;
    for (const row of shown) {
      for (const [recall, precision, score] of row.points) {
        const distance = Math.hypot(x(recall) - at[0], up(precision) - at[1]);
        if (best === null || distance < best.distance) best = { distance, recall, precision, score, row };
      }
    }
    if (best === null) return;
    pointer.removeAttribute("hidden");
    pointer.setAttribute("cx", x(best.recall));
    pointer.setAttribute("cy", up(best.precision));
    for (const row of rows) row.line.classList.toggle("dim", row !== best.row && shown.size > 3);
    byId("curve-reading").textContent =
      `${best.row.name}: recall ${figure(best.recall)}, precision ${figure(best.precision)} at score ${figure(best.score)} and above`;
  });
  chart.addEventListener("pointerleave", () => {
    pointer.setAttribute("hidden", "");
    for (const row of rows) row.line.classList.remove("dim");
  });
}

/** The confusion matrix at the slider's level; a cell's shade is its share of the row. */
function startConfusion() {
  const last = DATA.classes.length;
  const rows = [...byId("confusion").tBodies[0].rows];
  scoreSlider(byId("level"), DATA.levels, DATA.shownLevel, (step, value) => {
    byId("level-value").textContent = figure(value, 2);
    const counts = new Map(DATA.matrices[step].map(([row, column, count]) => [row * (last + 1) + column, count]));
    rows.forEach((row, number) => {
      const cells = [...row.cells].slice(1);
      const values = cells.map((_, column) => counts.get(number * (last + 1) + column) ?? 0);
      const total = values.reduce((sum, count) => sum + count, 0);
      cells.forEach((cell, column) => {
        const share = total ? values[column] / total : 0;
        cell.textContent = values[column] || "";
        cell.style.setProperty("--share", share.toFixed(3));
        cell.classList.toggle("strong", share > 0.8);
        cell.classList.toggle("on-diagonal", number === column && number < last);
        cell.title = `${DATA.classes[number] ?? "background"} as ${DATA.classes[column] ?? "background"}: ${values[column]} (${(100 * share).toFixed(1)} % of the row)`;
      });
    });
  });
}

/** Score histogram and calibration, of one class or all. */
function startScores() {
  const choice = byId("score-class");
  DATA.classes.forEach((name, index) => choice.append(element("option", { value: index }, name)));
  const sum = (lists) => lists.reduce((total, list) => total.map((value, bin) => value + list[bin]));
  const draw = () => {
    const index = Number(choice.value);
    const [right, wrong, sums] = ["right", "wrong", "sums"].map((key) =>
      index < 0 ? sum(DATA.bins[key]) : DATA.bins[key][index]);
    drawHistogram(right, wrong);
    drawReliability(right, wrong, sums);
    const [good, bad] = [right, wrong].map((list) => list.reduce((total, count) => total + count, 0));
    byId("score-reading").textContent =
      `${good} ${good === 1 ? "box is" : "boxes are"} right, ${bad} ${bad === 1 ? "is" : "are"} wrong`;
  };
  choice.addEventListener("change", draw);
  draw();
}

function drawHistogram(right, wrong) {
  const most = Math.max(10, ...right, ...wrong);
  const decades = Math.ceil(Math.log10(most));
  const height = (count) => (count ? (Math.log10(count) + 0.3) / (decades + 0.3) : 0);
  const x = across(LOW, HIGH);
  const chart = axes(byId("histogram"), "How many boxes are right and wrong, by score", {
    xTicks: scoreTicks(), xLabel: "score", yLabel: "boxes", x, y: up,
    yTicks: Array.from({ length: decades + 1 }, (_, power) => [height(10 ** power), power < 3 ? String(10 ** power) : `${10 ** (power - 3)}k`]),
  });
  const step = (HIGH - LOW) / right.length;
  const wide = (x(LOW + step) - x(LOW)) / 2 - 1;
  right.forEach((_, bin) => {
    const left = x(LOW + bin * step) + 1;
    for (const [place, count, kind] of [[0, right[bin], "right"], [1, wrong[bin], "wrong"]]) {
      const bar = shape("rect", {
        class: `bar-${kind}`, x: left + place * wide, width: wide,
        y: up(height(count)), height: up(0) - up(height(count)),
      });
      bar.append(shape("title", {}, `${count} ${kind}, score ${figure(LOW + bin * step, 2)} to ${figure(LOW + (bin + 1) * step, 2)}`));
      chart.append(bar);
    }
  });
  legend(chart, [["bar-right", "right"], ["bar-wrong", "wrong"]]);
}

function drawReliability(right, wrong, sums) {
  const x = across(LOW, HIGH);
  const chart = axes(byId("reliability"), "Share of right boxes by score; on the dashed line scores are calibrated", {
    xTicks: scoreTicks(), yTicks: TENTHS, xLabel: "score", yLabel: "share of right boxes", x, y: up,
  });
  const step = (HIGH - LOW) / right.length;
  right.forEach((good, bin) => {
    const total = good + wrong[bin];
    if (!total) return;
    const share = good / total;
    const bar = shape("rect", {
      class: "bar-share", x: x(LOW + bin * step) + 1, width: x(LOW + step) - x(LOW) - 2,
      y: up(share), height: Math.max(1, up(0) - up(share)), opacity: total < 10 ? 0.4 : 0.9,
    });
    bar.append(shape("title", {}, `${good} of ${total} right (${figure(share)}), mean score ${figure(sums[bin] / total)}`));
    chart.append(bar);
  });
  if (LOW === 0 && HIGH === 1) {
    chart.append(shape("line", { class: "ideal", x1: x(0), y1: up(0), x2: x(1), y2: up(1) }));
  }
}

/** The costs of errors as bars. */
function startCosts() {
  const costs = Object.entries(DATA.costs);
  const most = Math.max(0.01, ...costs.map(([, cost]) => cost));
  const chart = shape("svg", { viewBox: "0 0 640 160", role: "img", "aria-label": "Costs of errors, mean over classes; the table above has the figures" });
  costs.forEach(([name, cost], index) => {
    const top = 6 + index * 25;
    const bar = shape("rect", { x: 110, y: top, height: 18, width: Math.max(1, (cost / most) * 460) });
    bar.style.fill = `var(--${name})`;
    chart.append(
      shape("text", { x: 102, y: top + 14, "text-anchor": "end" }, name), bar,
      shape("text", { x: 118 + Math.max(0, cost / most) * 460, y: top + 14 }, figure(cost)),
    );
  });
  byId("costs").replaceChildren(chart);
}

startCurves();
startConfusion();
startScores();
startCosts();
