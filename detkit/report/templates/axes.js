const PLOT = { width: 640, height: 400, left: 58, right: 18, top: 12, bottom: 44 };

/** Return an empty chart with axes from 0 to 1 (or as `ticks` say), and its two scales. */
function axes(box, words, { xTicks, yTicks, xLabel, yLabel, x, y }) {
  const chart = shape("svg", {
    viewBox: `0 0 ${PLOT.width} ${PLOT.height}`, role: "img", "aria-label": words,
  });
  const bottom = PLOT.height - PLOT.bottom;
  for (const [value, text] of xTicks) {
    chart.append(
      shape("line", { class: "grid", x1: x(value), x2: x(value), y1: PLOT.top, y2: bottom }),
      shape("text", { x: x(value), y: bottom + 18, "text-anchor": "middle" }, text),
    );
  }
  for (const [value, text] of yTicks) {
    chart.append(
      shape("line", { class: "grid", x1: PLOT.left, x2: PLOT.width - PLOT.right, y1: y(value), y2: y(value) }),
      shape("text", { x: PLOT.left - 6, y: y(value) + 4, "text-anchor": "end" }, text),
    );
  }
  chart.append(
    shape("path", { class: "axis", d: `M${PLOT.left} ${PLOT.top}V${bottom}H${PLOT.width - PLOT.right}` }),
    shape("text", { x: (PLOT.left + PLOT.width) / 2, y: PLOT.height - 6, "text-anchor": "middle" }, xLabel),
    shape("text", { transform: `translate(13 ${(PLOT.top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, yLabel),
  );
  box.replaceChildren(chart);
  return chart;
}

const across = (low, high) => (value) =>
  PLOT.left + ((value - low) / (high - low)) * (PLOT.width - PLOT.left - PLOT.right);
const up = (value) => PLOT.height - PLOT.bottom - value * (PLOT.height - PLOT.top - PLOT.bottom);

/** Name what the colours of a chart mean, in its upper right corner. */
function legend(chart, entries, apart = 80) {
  entries.forEach(([kind, text], index) => {
    const left = PLOT.width - apart * (entries.length - index);
    chart.append(
      shape("rect", { class: kind, x: left, y: PLOT.top, width: 12, height: 12 }),
      shape("text", { x: left + 17, y: PLOT.top + 11 }, text),
    );
  });
}
