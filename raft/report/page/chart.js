// One panel of lines against the iteration, with its readings. All panels read the same iteration.

const HEIGHT = 200;
const EDGE = { left: 46, right: 12, top: 10, bottom: 26 };
const DASHES = { "-": null, "--": "6 4", "-.": "7 3 1.5 3", ":": "1.5 3" };
const FEW = 25; // points that are marked one by one

class Chart {
  // `points` are the rows of metrics, `marks` the iterations at which a guard fired
  constructor(panel, points, marks, onread) {
    Object.assign(this, { panel, points, marks, onread, hidden: new Set(), intervals: true });
    this.at = points.length - 1;
    this.canvas = svg("svg", { "aria-hidden": "true" });
    this.plot = el(
      "div",
      {
        class: "plot", tabindex: 0, role: "slider", "aria-label": `${panel.title}, iteration`,
        onkeydown: (event) => this.onkey(event),
        onpointermove: (event) => this.onpoint(event),
        onpointerdown: (event) => this.onpoint(event),
      },
      this.canvas,
    );
    this.legend = el("div", { class: "legend" }, panel.lines.map((line, i) => this.entry(line, i)));
    this.when = el("span", { class: "when" });
    this.node = el(
      "figure",
      { class: "panel" },
      el("figcaption", {}, el("h3", {}, panel.title), this.when),
      this.legend,
      this.plot,
    );
  }

  entry(line, i) {
    line.shade = `s${i % 6}`;
    line.reading = el("span", { class: "reading" });
    const stroke = svg("line", { x1: 0, x2: 20, y1: 5, y2: 5, ...this.stroke(line) });
    return button(
      [svg("svg", { width: 20, height: 10, "aria-hidden": "true" }, stroke), line.label, line.reading],
      (event) => {
        const off = !this.hidden.delete(line.key);
        if (off) this.hidden.add(line.key);
        event.currentTarget.setAttribute("aria-pressed", String(!off));
        this.draw();
      },
      { "aria-pressed": "true" },
    );
  }

  stroke(line) {
    return {
      class: `line ${line.shade}`, "stroke-width": Math.max(1.2, 2 * line.width),
      "stroke-dasharray": DASHES[line.dash],
    };
  }

  get shown() {
    return this.panel.lines.filter((line) => !this.hidden.has(line.key));
  }

  half(line, point) {
    return (this.intervals && line.interval && point[line.interval]) || 0;
  }

  range() {
    const values = this.panel.level === null || this.panel.level === undefined ? [] : [this.panel.level];
    for (const line of this.shown) {
      for (const point of this.points) {
        if (point[line.key] === undefined) continue;
        const half = this.half(line, point);
        values.push(point[line.key] - half, point[line.key] + half);
      }
    }
    let low = Infinity;
    let high = -Infinity;
    for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
    if (low > high) return [0, 1];
    // what differs by rounding alone is level
    const level = high - low < 1e-9 * Math.max(Math.abs(low), Math.abs(high));
    const room = (level ? 0 : (high - low) * 0.06) || Math.abs(high) * 0.1 || 1;
    return [low - room, high + room];
  }

  draw(width = this.width) {
    this.width = width;
    if (!width) return;
    const [low, high] = this.range();
    const first = this.points[0].iteration;
    const last = this.points.at(-1).iteration;
    const left = EDGE.left;
    const right = width - EDGE.right;
    // a single iteration stands in the middle
    this.x = first === last ? () => (left + right) / 2 : scale(first, last, left + 6, right - 6);
    this.y = scale(low, high, HEIGHT - EDGE.bottom, EDGE.top);
    this.canvas.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.canvas.replaceChildren(...this.axes(low, high, first, last, left, right));
    for (const line of this.shown) this.canvas.append(...this.line(line));
    this.cursor = svg("g", {});
    this.canvas.append(this.cursor);
    this.read(this.at);
  }

  axes(low, high, first, last, left, right) {
    const y = ticks(low, high, 4);
    const x = ticks(first, last === first ? first + 1 : last, Math.min(8, (right - left) / 50));
    const bottom = HEIGHT - EDGE.bottom;
    const nodes = y.values.map((value) => [
      svg("line", { class: "rule", x1: left, x2: right, y1: this.y(value), y2: this.y(value) }),
      svg("text", { class: "tick", x: left - 6, y: this.y(value) + 4, "text-anchor": "end" }, tickText(value, y.step)),
    ]);
    for (const value of x.values.filter((v) => Number.isInteger(v) && v <= last)) {
      nodes.push(svg("text", { class: "tick", x: this.x(value), y: bottom + 17, "text-anchor": "middle" }, value));
    }
    if (this.panel.level !== null && this.panel.level !== undefined) {
      const at = this.y(this.panel.level);
      nodes.push(svg("line", { class: "level", x1: left, x2: right, y1: at, y2: at }));
    }
    for (const iteration of this.marks) {
      const at = this.x(iteration);
      nodes.push(svg("line", { class: "guard", x1: at, x2: at, y1: EDGE.top, y2: bottom }));
    }
    return nodes.flat();
  }

  line(line) {
    const points = this.points.filter((point) => point[line.key] !== undefined);
    const place = (point, by = 0) => `${this.x(point.iteration)},${this.y(point[line.key] + by)}`;
    const nodes = [];
    if (points.some((point) => this.half(line, point))) {
      const above = points.map((point) => place(point, this.half(line, point)));
      const below = points.map((point) => place(point, -this.half(line, point))).reverse();
      if (points.length > 1) {
        nodes.push(svg("polygon", { class: `band ${line.shade}`, points: [...above, ...below].join(" ") }));
      } else {
        const x = this.x(points[0].iteration);
        const [y1, y2] = [1, -1].map((s) => this.y(points[0][line.key] + s * this.half(line, points[0])));
        nodes.push(svg("line", { class: `line ${line.shade}`, x1: x, x2: x, y1, y2 }));
      }
    }
    nodes.push(svg("polyline", { ...this.stroke(line), points: points.map((p) => place(p)).join(" ") }));
    if (points.length === 1 || (points.length <= FEW && line.width >= 1)) {
      for (const point of points) {
        nodes.push(svg("circle", { class: `dot ${line.shade}`, r: 3, cx: this.x(point.iteration), cy: this.y(point[line.key]) }));
      }
    }
    return nodes;
  }

  // show what stands at the point number `at`
  read(at) {
    this.at = at;
    const point = this.points[at];
    const said = [];
    for (const line of this.panel.lines) {
      const value = point[line.key];
      const half = line.interval && point[line.interval];
      const text = value === undefined ? "–" : plain(value) + (half ? ` ± ${plain(half)}` : "");
      line.reading.textContent = text;
      said.push(`${line.label} ${text}`);
    }
    this.when.textContent = `iteration ${point.iteration}`;
    const range = { min: this.points[0].iteration, max: this.points.at(-1).iteration, now: point.iteration };
    for (const [name, value] of Object.entries(range)) this.plot.setAttribute(`aria-value${name}`, value);
    this.plot.setAttribute("aria-valuetext", `iteration ${point.iteration}: ${said.join(", ")}`);
    if (!this.x) return;
    const x = this.x(point.iteration);
    this.cursor.replaceChildren(
      svg("line", { class: "cursor", x1: x, x2: x, y1: EDGE.top, y2: HEIGHT - EDGE.bottom }),
      ...this.shown
        .filter((line) => point[line.key] !== undefined)
        .map((line) => svg("circle", { class: `dot big ${line.shade}`, r: 4.5, cx: x, cy: this.y(point[line.key]) })),
    );
  }

  onkey(event) {
    const last = this.points.length - 1;
    const to = {
      ArrowLeft: this.at - 1, ArrowDown: this.at - 1, ArrowRight: this.at + 1, ArrowUp: this.at + 1,
      Home: 0, End: last,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.onread(Math.min(last, Math.max(0, to)));
  }

  onpoint(event) {
    if (!this.x) return;
    const box = this.canvas.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * this.width;
    let nearest = 0;
    for (const [i, point] of this.points.entries()) {
      if (Math.abs(this.x(point.iteration) - x) < Math.abs(this.x(this.points[nearest].iteration) - x)) nearest = i;
    }
    this.onread(nearest);
  }
}
