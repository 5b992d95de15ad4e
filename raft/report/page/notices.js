// What is missing, what a guard said, and the numbers in short.

function showNotices() {
  if (!RUN.notices.length) return;
  $("notices").querySelector("ul").append(...RUN.notices.map((t) => el("li", {}, shown(t))));
  $("notices").hidden = false;
}

function showGuards() {
  const { guards, stopped } = RUN;
  if (!guards.length && !stopped) return;
  const body = $("guards").querySelector(".body");
  if (stopped) {
    const known = (value) => value !== null && value !== "";
    body.append(
      el(
        "div",
        { class: "stopped" },
        el("p", {}, el("strong", {}, `Stopped${known(stopped.iteration) ? ` after iteration ${stopped.iteration}` : ""}: `), shown(stopped.message)),
        known(stopped.best_iteration) ? el("p", {}, `Best iteration: ${stopped.best_iteration}`) : null,
        known(stopped.checkpoint) ? el("p", {}, "Its checkpoint: ", shown(stopped.checkpoint)) : null,
      ),
    );
  }
  if (guards.length) {
    body.append(
      el(
        "div",
        { class: "scroll", tabindex: 0, role: "region", "aria-label": "Guards" },
        table(
          "What they said, in order; dashed lines in the curves mark the iterations",
          ["Iteration", "Guard", "Message", "Effect"],
          guards.map((g) => [String(g.iteration ?? "–"), shown(g.guard), shown(g.message), g.stops ? "stops the run" : "a warning"]),
        ),
      ),
    );
  }
  $("guards").hidden = false;
}

function showHeadline() {
  $("overview")
    .querySelector("dl")
    .append(
      ...RUN.headline.map(({ label, value, note }) =>
        el("div", {}, el("dt", {}, label), el("dd", {}, value), el("dd", { class: "note" }, note)),
      ),
    );
}
