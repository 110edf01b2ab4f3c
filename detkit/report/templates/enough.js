/** mAP over images or minutes on a logarithmic axis: a dot a training, the curve and its band. */
function startGains({ id, label, points, curve }) {
  const box = byId(id);
  if (box === null || !curve.length) return;
  const [width, height, left, right, top, bottom] = [560, 380, 52, 16, 14, 46];
  const [first, last] = [curve[0].x, curve[curve.length - 1].x];
  const x = (value) => left + (Math.log(value / first) / Math.log(last / first)) * (width - left - right);
  const values = [...points.map((one) => one[1]), ...curve.flatMap((one) => [one.low, one.high])];
  const step = Math.max(...values) - Math.min(...values) > 0.5 ? 0.2 : 0.1;
  const low = Math.max(0, Math.floor(Math.min(...values) / step) * step);
  const high = Math.min(1, Math.ceil(Math.max(...values) / step) * step);
  const y = (value) => height - bottom - ((value - low) / Math.max(high - low, step)) * (height - top - bottom);
  const chart = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `mAP over ${label}; the tables have the figures` });
  for (let value = low; value <= high + 1e-9; value += step) {
    chart.append(
      shape("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
      shape("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(1)),
    );
  }
  const most = Math.max(...points.map((one) => one[0]));
  // The shares of all that the parts are, and twice as much; no two so near that they touch.
  const ticks = [...new Set([...points.map((one) => one[0]), 2 * most])].sort((a, b) => b - a);
  let taken = Infinity;
  for (const value of ticks) {
    if (value > last * 1.01 || taken - x(value) < 44) continue;
    taken = x(value);
    chart.append(
      shape("line", { class: "grid", x1: x(value), x2: x(value), y1: top, y2: height - bottom }),
      shape("text", { x: x(value), y: height - bottom + 18, "text-anchor": "middle" }, String(Number(value.toPrecision(value < 10 ? 2 : 3)))),
    );
  }
  const upper = curve.map((one) => `${x(one.x)} ${y(one.high)}`);
  const lower = curve.map((one) => `${x(one.x)} ${y(one.low)}`).reverse();
  chart.append(
    shape("path", { class: "bar-share", opacity: 0.18, d: `M${[...upper, ...lower].join("L")}Z` }),
    shape("path", { fill: "none", stroke: "var(--accent)", "stroke-width": 2, d: `M${curve.map((one) => `${x(one.x)} ${y(one.value)}`).join("L")}` }),
    shape("line", { stroke: "var(--soft)", "stroke-dasharray": "5 4", x1: x(most), x2: x(most), y1: top, y2: height - bottom }),
  );
  for (const [amount, value] of points) {
    const dot = shape("circle", { cx: x(amount), cy: y(value), r: 5, class: "bar-share" });
    dot.append(shape("title", {}, `${Number(amount.toPrecision(3))} ${label}: mAP ${figure(value)}`));
    chart.append(dot);
  }
  chart.append(
    shape("text", { x: (left + width - right) / 2, y: height - 8, "text-anchor": "middle" }, label),
    shape("text", { transform: `translate(14 ${(top + height - bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, "mAP"),
  );
  box.replaceChildren(chart);
}

JSON.parse(byId("data").textContent).forEach(startGains);
