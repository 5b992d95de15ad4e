// All panels, one more for any metric, and the table of everything.

function showCurves() {
  const points = RUN.metrics;
  if (!points.length) return;
  const section = $("curves");
  const charts = [];
  const read = (at) => charts.forEach((chart) => chart.read(at));
  const marks = [...new Set(RUN.guards.map((guard) => guard.iteration).filter((i) => i !== null))];
  const make = (panel) => {
    const chart = new Chart(panel, points, marks, read);
    charts.push(chart);
    sizes.observe(chart.plot);
    return chart;
  };
  const sizes = new ResizeObserver((entries) => {
    for (const { target, contentRect } of entries) {
      charts.find((chart) => chart.plot === target)?.draw(Math.round(contentRect.width));
    }
  });
  section.querySelector(".grid").append(...RUN.panels.map((panel) => make(panel).node));
  $("intervals").addEventListener("change", (event) => {
    for (const chart of charts) {
      chart.intervals = event.target.checked;
      chart.draw();
    }
  });
  section.hidden = false;

  const keys = [...new Set(points.flatMap(Object.keys))].filter((key) => key !== "iteration").sort();
  const place = el("div", {});
  const choose = (key) => {
    const old = charts.findIndex((chart) => place.contains(chart.node));
    if (old >= 0) charts.splice(old, 1);
    const interval = `${key.replace(/_mean$/, "")}_ci95`;
    const line = { key, label: key, interval: keys.includes(interval) ? interval : null, dash: "-", width: 1 };
    place.replaceChildren(make({ title: key, lines: [line] }).node);
  };
  const select = el(
    "select",
    { onchange: (event) => choose(event.target.value) },
    options(keys.map((key) => [key, key]), keys[0]),
  );
  section.querySelector("details").addEventListener(
    "toggle",
    () => {
      section.querySelector(".other").append(labelled("Metric", select), place);
      if (keys.length) choose(keys[0]);
      section.querySelector(".scroll").append(metricsTable(points, keys));
    },
    { once: true },
  );
}

function metricsTable(points, keys) {
  return table(
    "Every metric by iteration",
    ["Metric", ...points.map((point) => String(point.iteration))],
    keys.map((key) => [key, ...points.map((point) => plain(point[key]))]),
  );
}
