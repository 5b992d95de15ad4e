// A bar per iteration, made of its stages; the same as a table.

const BAR = { height: 20, gap: 8, left: 34, right: 70 };

function showTimes() {
  const rows = RUN.times;
  if (!rows.length) return;
  const names = RUN.stageNames.filter((name) => rows.some((row) => row.seconds[name] > 0));
  const body = $("times").querySelector(".body");
  const canvas = svg("svg", { role: "img", "aria-label": "Seconds per iteration and stage; the table below has them" });
  const place = el("div", { class: "bars" }, canvas);
  body.append(
    el(
      "ul",
      { class: "keys" },
      names.map((name) => el("li", {}, svg("svg", { width: 12, height: 12, "aria-hidden": "true" }, svg("rect", { class: `t-${name}`, width: 12, height: 12, rx: 2 })), name)),
    ),
    place,
    el("details", {}, el("summary", {}, "As a table"), el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Times" }, timeTable(rows, names))),
  );
  $("times").hidden = false;
  new ResizeObserver(([entry]) => drawBars(canvas, rows, names, Math.round(entry.contentRect.width))).observe(place);
}

function drawBars(canvas, rows, names, width) {
  if (width <= BAR.left + BAR.right) return; // not laid out yet
  const height = rows.length * (BAR.height + BAR.gap);
  const longest = Math.max(...rows.map((row) => row.total)) || 1;
  const wide = scale(0, longest, 0, width - BAR.left - BAR.right);
  canvas.setAttribute("viewBox", `0 0 ${width} ${height}`);
  canvas.replaceChildren(
    ...rows.map((row, i) => {
      const y = i * (BAR.height + BAR.gap);
      let x = BAR.left;
      const parts = names
        .filter((name) => row.seconds[name] > 0)
        .map((name) => {
          const part = svg(
            "rect",
            { class: `t-${name}`, x, y, width: wide(row.seconds[name]), height: BAR.height },
            svg("title", {}, `iteration ${row.iteration}, ${name}: ${seconds(row.seconds[name])}`),
          );
          x += wide(row.seconds[name]);
          return part;
        });
      return svg(
        "g",
        {},
        svg("text", { class: "tick", x: BAR.left - 8, y: y + 14, "text-anchor": "end" }, row.iteration),
        parts,
        svg("text", { class: "tick", x: x + 6, y: y + 14 }, seconds(row.total)),
      );
    }),
  );
}

function timeTable(rows, names) {
  const share = (name) => {
    const all = rows.reduce((sum, row) => sum + row.total, 0);
    const part = rows.reduce((sum, row) => sum + (row.seconds[name] ?? 0), 0);
    return all ? `${((100 * part) / all).toFixed(1)} %` : "–";
  };
  return table(
    "Seconds; “other” is what no stage accounts for",
    ["Iteration", ...names, "whole"],
    [
      ...rows.map((row) => [
        String(row.iteration),
        ...names.map((name) => (row.seconds[name] === undefined ? "–" : row.seconds[name].toFixed(2))),
        row.total.toFixed(2),
      ]),
      ["all", ...names.map(share), seconds(rows.reduce((sum, row) => sum + row.total, 0))],
    ],
  );
}
