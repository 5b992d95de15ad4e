// Config, versions, counts.

function showFacts() {
  if (RUN.facts.length) {
    $("facts").querySelector(".groups").append(
      ...RUN.facts.map(({ title, rows }) =>
        el(
          "div",
          { class: "group" },
          el("h3", {}, title),
          el("dl", {}, rows.map(([name, value]) => [el("dt", {}, shown(name)), el("dd", {}, shown(value))])),
        ),
      ),
    );
    $("facts").hidden = false;
  }
  if (RUN.config) {
    $("config").querySelector("pre").append(...shown(RUN.config));
    $("config").hidden = false;
    $("facts").hidden = false;
  }
}

function showSource() {
  const changed = RUN.changed ? ` · metrics written ${RUN.changed}` : "";
  $("made").textContent = `Made by ${RUN.made}${changed}`;
  const value = (group, name) => {
    const rows = RUN.facts.find((facts) => facts.title === group)?.rows ?? [];
    return rows.find(([key]) => key === name)?.[1];
  };
  const policy = value("Policy", "model");
  const reward = value("Reward", "model") ?? value("Reward", "function") ?? value("Reward", "kind");
  const base = (path) => path.replace(/\/+$/, "").split("/").slice(-2).join("/");
  const parts = [
    policy && ["policy ", el("b", {}, shown(base(policy)))],
    reward && ["reward ", el("b", {}, shown(base(reward)))],
    value("Sampling", "k") && [`${value("Sampling", "k")} responses a prompt`],
  ].filter(Boolean);
  $("lead").append(...parts.flatMap((part, i) => (i ? [" · ", ...part] : part)).flat());
  if (!parts.length) $("lead").remove();
}
