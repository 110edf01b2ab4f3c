/** mAP over seconds an image, on a logarithmic axis: a large dot a model, small ones its seeds. */
function startSpeed() {
  const models = JSON.parse(byId("data").textContent).filter((one) => one.mean !== null && one.seconds > 0);
  const box = byId("speed");
  if (box === null || !models.length) return;
  const [width, height, left, right, top, bottom] = [720, 380, 58, 110, 14, 46];
  // 1, 2, 5, 10, ... seconds: the steps around the models, two at least on each side.
  const steps = Array.from({ length: 24 }, (_, step) => [1, 2, 5][step % 3] * 10 ** (Math.floor(step / 3) - 5));
  const times = models.map((one) => one.seconds);
  const first = Math.max(0, steps.findIndex((step) => step > Math.min(...times)) - 2);
  const after = steps.findIndex((step) => step > Math.max(...times));
  const ticks = steps.slice(first, after < 0 ? steps.length : after + 2);
  const [low, high] = [Math.log10(ticks[0]), Math.log10(ticks[ticks.length - 1])];
  const x = (seconds) => left + ((Math.log10(seconds) - low) / (high - low)) * (width - left - right);
  const y = (value) => height - bottom - value * (height - top - bottom);
  const chart = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "mAP over seconds an image; the table has the figures" });
  for (const seconds of ticks) {
    chart.append(
      shape("line", { class: "grid", x1: x(seconds), x2: x(seconds), y1: top, y2: height - bottom }),
      shape("text", { x: x(seconds), y: height - bottom + 18, "text-anchor": "middle" }, String(Number(seconds.toPrecision(1)))),
    );
  }
  for (const value of [0, 0.2, 0.4, 0.6, 0.8, 1]) {
    chart.append(
      shape("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
      shape("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(1)),
    );
  }
  chart.append(
    shape("text", { x: (left + width - right) / 2, y: height - 8, "text-anchor": "middle" }, "seconds an image"),
    shape("text", { transform: `translate(14 ${(top + height - bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, "mAP"),
  );
  const taken = [];
  for (const { name, mean, maps, seconds } of models) {
    for (const value of maps) {
      if (value !== null && maps.length > 1) chart.append(shape("circle", { cx: x(seconds), cy: y(value), r: 3, class: "bar-share", opacity: 0.5 }));
    }
    let line = y(mean) + 4;
    while (taken.some((place) => Math.abs(place - line) < 14)) line += 14;
    taken.push(line);
    const dot = shape("circle", { cx: x(seconds), cy: y(mean), r: 6, class: "bar-share" });
    dot.append(shape("title", {}, `${name}: mAP ${figure(mean)}, ${seconds.toPrecision(3)} s`));
    chart.append(dot, shape("text", { x: x(seconds) + 11, y: line }, name));
  }
  box.replaceChildren(chart);
}

startSpeed();
