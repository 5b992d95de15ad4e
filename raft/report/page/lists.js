// Best, worst, changed most, and where proxy and gold disagree: tabs of entries that open a prompt.

function showLists() {
  if (!RUN.lists.length) return;
  const tabs = $("lists").querySelector("[role=tablist]");
  const choose = (at, focus) => {
    for (const [i, tab] of [...tabs.children].entries()) {
      tab.setAttribute("aria-selected", String(i === at));
      tab.tabIndex = i === at ? 0 : -1;
    }
    if (focus) tabs.children[at].focus();
    $("list-panel").setAttribute("aria-labelledby", `tab-${at}`);
    $("list-panel").replaceChildren(
      el("p", { class: "hint" }, RUN.lists[at].what),
      el("ol", { class: "entries" }, RUN.lists[at].entries.map((entry) => el("li", {}, listEntry(entry)))),
    );
  };
  RUN.lists.forEach(({ title }, i) =>
    tabs.append(
      button(title, () => choose(i), { role: "tab", id: `tab-${i}`, "aria-controls": "list-panel" }),
    ),
  );
  tabs.addEventListener("keydown", (event) => {
    const last = RUN.lists.length - 1;
    const at = [...tabs.children].findIndex((tab) => tab.tabIndex === 0);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    choose(Math.min(last, Math.max(0, to)), true);
  });
  choose(0);
  $("lists").hidden = false;
}

function listEntry({ stage, row, sample, prompt, response, figures }) {
  const names = figures.map(([name, value]) => [
    name === "reward" ? RUN.stages[stage].measure : name,
    value,
  ]);
  return button(
    [
      el(
        "span",
        { class: "figures" },
        names.map(([name, value]) => el("span", { class: "score" }, el("span", {}, name), el("b", {}, plain(value, 2)))),
      ),
      el("span", { class: "start" }, shown(prompt || "(empty)")),
      response === undefined ? null : el("span", { class: "excerpt" }, shown(response || "(empty)")),
    ],
    async () => {
      $("samples").scrollIntoView();
      await openPlace({ stage, row, sample });
      $("detail").focus({ preventScroll: true });
    },
    { class: "entry" },
  );
}
