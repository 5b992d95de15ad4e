// How the held-out scores lie: a row of bars per iteration, over one axis.

function showHistogram() {
  if (!RUN.histogram) return;
  const { low, high, measure, rows } = RUN.histogram;
  const width = Math.max(320, Math.min(720, document.documentElement.clientWidth - 32)); // letters stay as large
  const tall = 34;
  const left = 90;
  const x = scale(low, high, left, width - 12);
  const bottom = rows.length * tall;
  const wide = (width - 12 - left) / rows[0].counts.length;
  const node = svg("svg", {
    class: "scores", viewBox: `0 0 ${width} ${bottom + 24}`, role: "img",
    "aria-label": `${measure} of the held-out responses: ${rows
      .map(({ iteration, mean: at }) => `iteration ${iteration}, mean ${plain(at)}`).join("; ")}`,
  });
  rows.forEach(({ iteration, counts, mean: at }, row) => {
    const most = Math.max(...counts);
    const floor = (row + 1) * tall;
    node.append(
      svg("text", { class: "tick", x: left - 8, y: floor - 8, "text-anchor": "end" }, `iteration ${iteration}`),
      svg("line", { class: "rule", x1: left, x2: width - 12, y1: floor, y2: floor }),
    );
    counts.forEach((number, bin) => {
      const height = ((tall - 6) * number) / most;
      const bar = svg("rect", {
        class: "bar", x: left + bin * wide + 0.5, y: floor - height, width: wide - 1, height,
      });
      bar.append(svg("title", {}, counted(number, "response")));
      node.append(bar);
    });
    node.append(svg("line", { class: "mean", x1: x(at), x2: x(at), y1: floor - tall + 4, y2: floor }));
  });
  const axis = ticks(low, high, 6);
  for (const value of axis.values) {
    node.append(
      svg("text", { class: "tick", x: x(value), y: bottom + 16, "text-anchor": "middle" }, tickText(value, axis.step)),
    );
  }
  $("scores").querySelector(".body").append(node);
  $("scores").hidden = false;
}
