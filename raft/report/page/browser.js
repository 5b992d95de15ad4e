// The browser of samples: what to look at, the list of prompts, the prompt.

const browser = {
  phase: null,
  iteration: null,
  bestFirst: true,
  asked: 0, // counts searches, so that an overtaken one stops
  started: false,
  fields: {},
};

function filtersNow() {
  const { fields } = browser;
  const numberIn = (field) => (field.value.trim() === "" ? null : Number(field.value));
  return {
    query: fields.query.value,
    by: fields.by.value,
    order: fields.order.value,
    everywhere: fields.everywhere.checked,
    chosen: fields.chosen.checked && kindOf(browser.phase) === "rollouts",
    cut: fields.cut.checked,
    low: numberIn(fields.low),
    high: numberIn(fields.high),
  };
}

const stageNow = () =>
  stagesOf(browser.phase).find((stage) => stage.iteration === browser.iteration);

function makeControls() {
  const { fields } = browser;
  const phases = Object.keys(PHASES).filter((phase) => stagesOf(phase).length);
  const change = () => search();
  const number = (label) => el("input", { type: "number", step: "any", "aria-label": label, oninput: later });
  fields.phase = el(
    "select",
    { onchange: (event) => setStage(event.target.value, browser.iteration) },
    options(phases.map((phase) => [phase, PHASES[phase]]), phases[0]),
  );
  fields.iteration = el("select", { onchange: (event) => setStage(browser.phase, Number(event.target.value)) });
  fields.query = el("input", { type: "search", placeholder: "any text", oninput: later, autocomplete: "off" });
  fields.everywhere = el("input", { type: "checkbox", onchange: change });
  fields.chosen = el("input", { type: "checkbox", onchange: change });
  fields.cut = el("input", { type: "checkbox", onchange: change });
  fields.by = el("select", { onchange: change });
  fields.low = number("Lowest score");
  fields.high = number("Highest score");
  fields.order = el("select", { onchange: () => search(null) }, options(ORDERS, "stored"));
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("controls").append(
    labelled("Show", fields.phase),
    el(
      "div",
      { class: "field" },
      el("span", { id: "iteration-label" }, "Iteration"),
      el(
        "span",
        { class: "step" },
        button("‹", () => stepIteration(-1), { "aria-label": "Previous iteration" }),
        fields.iteration,
        button("›", () => stepIteration(1), { "aria-label": "Next iteration" }),
      ),
    ),
    labelled("Search", fields.query, "field wide"),
    labelled("Order", fields.order),
    el("div", { class: "field" }, el("span", {}, "Score"), el("span", { class: "step" }, fields.by, fields.low, "to", fields.high)),
    el(
      "div",
      { class: "checks" },
      labelled("chosen only", fields.chosen, "check"),
      labelled("cut at the limit", fields.cut, "check"),
      labelled("all iterations", fields.everywhere, "check"),
    ),
    button("Save list as CSV", () => saveCsv(browser.list.entries, filtersNow()), {
      title: "a line for each response that passes the filters",
    }),
  );
  fields.iteration.setAttribute("aria-labelledby", "iteration-label");
  fields.by.setAttribute("aria-label", "Which score");
}

let waiting = null;
function later() {
  clearTimeout(waiting);
  waiting = setTimeout(search, 200);
}

// show a phase at an iteration, or at the nearest there is
function setStage(phase, iteration) {
  const stages = stagesOf(phase);
  const nearest = stages.reduce((a, b) =>
    Math.abs(b.iteration - iteration) < Math.abs(a.iteration - iteration) ? b : a,
  );
  const { fields } = browser;
  const keep = browser.list.entry;
  const before = keep && { ...keep, phase: browser.phase };
  browser.phase = phase;
  browser.iteration = nearest.iteration;
  fields.phase.value = phase;
  fields.iteration.replaceChildren(
    ...options(stages.map((s) => [s.iteration, String(s.iteration)]), nearest.iteration),
  );
  fields.chosen.disabled = kindOf(phase) !== "rollouts";
  const names = Object.keys(nearest.ranges);
  const by = names.includes(fields.by.value) ? fields.by.value : names[0];
  fields.by.replaceChildren(...options(names.map((name) => [name, name === "reward" ? nearest.measure : name]), by));
  fields.by.disabled = names.length < 2;
  return search(before && before.phase === phase ? before : null);
}

function stepIteration(by) {
  const stages = stagesOf(browser.phase);
  const at = stages.findIndex((stage) => stage.iteration === browser.iteration) + by;
  if (stages[at]) setStage(browser.phase, stages[at].iteration);
}

// the list anew; `before` is the prompt that was in view, which is shown again where it is found
async function search(before = browser.list.entry) {
  clearTimeout(waiting);
  browser.asked += 1;
  const turn = browser.asked;
  const filters = filtersNow();
  const stages = filters.everywhere ? stagesOf(browser.phase) : [stageNow()];
  const all = stages.reduce((sum, stage) => sum + stage.prompts, 0);
  let fresh = true;
  const entries = await matching(stages, filters, (soFar, share) => {
    if (turn !== browser.asked) return false;
    if (share < 1 && filters.query.trim()) {
      say(`${count(soFar.length)} found, ${Math.floor(100 * share)} % searched …`);
      if (fresh) browser.list.set(soFar);
      else browser.list.grow(soFar);
      fresh = false;
    }
    return true;
  });
  if (entries === null || turn !== browser.asked) return;
  const here = before && (await sameIn(before, stages));
  if (turn !== browser.asked) return;
  const kept = browser.list.set(entries, here);
  say(
    entries.length === all
      ? counted(all, "prompt")
      : `${count(entries.length)} of ${counted(all, "prompt")}`,
  );
  if (kept) browser.list.go(browser.list.at);
  else if (entries.length) browser.list.go(0);
  else nothing(all);
}

// the place of the same prompt in the stages that are looked at now
async function sameIn({ stage, row }, stages) {
  if (stages.some(({ number }) => number === stage)) return { stage, row };
  const id = (await indexOf(stage)).ids[row];
  for (const { number } of stages) {
    const at = (await indexOf(number)).ids.indexOf(id);
    if (at >= 0) return { stage: number, row: at };
  }
  return null;
}

function nothing(all) {
  shownPrompt += 1;
  const reset = button("Clear search and filters", () => {
    const { fields } = browser;
    for (const name of ["query", "low", "high"]) fields[name].value = "";
    for (const name of ["chosen", "cut"]) fields[name].checked = false;
    search();
  });
  $("detail").replaceChildren(
    el("p", { class: "empty" }, all ? "No prompt matches." : "This file holds no prompts."), all ? reset : null ?? "",
  );
}

const say = (text) => {
  $("status").textContent = text;
};

// a row of the list: the prompt's beginning, its scores at a glance
async function listRow({ stage, row }) {
  const index = await indexOf(stage);
  const known = RUN.stages[stage];
  const { by, everywhere } = filtersNow();
  const scores = index.scores[by]?.[row] ?? [];
  const average = mean(scores);
  const figures = known.comparable && average !== null ? `mean ${plain(average, 2)}` : "";
  return [
    el("span", { class: "start" }, shown(index.starts[row] || "(empty)")),
    el(
      "span",
      { class: "below" },
      strip(scores, index.chosen[row], known.ranges[by]),
      el("span", {}, [everywhere ? `iteration ${known.iteration}` : "", figures].filter(Boolean).join(" · ")),
      scores.includes(null) ? tag("missing", "warn", "a score is missing") : null,
      index.cut[row].length ? tag(`${index.cut[row].length} cut`, "", "responses cut at the limit") : null,
    ),
  ];
}

async function look(entry, byHand, sample = null) {
  const done = await showPrompt(entry, {
    filters: filtersNow(),
    bestFirst: browser.bestFirst,
    sample,
    moveBy: (by) => browser.list.go(browser.list.at + by),
    open: openPlace,
    setBestFirst: (best) => {
      browser.bestFirst = best;
      look(entry);
    },
  });
  // on a narrow screen the prompt lies below the list
  if (done && byHand && matchMedia("(max-width: 800px)").matches) $("detail").scrollIntoView();
}

// show one prompt, wherever it is; filters that would hide it are cleared
async function openPlace({ stage, row, sample = null }) {
  await startBrowser();
  const { fields } = browser;
  const { phase, iteration } = RUN.stages[stage];
  if (!filtersNow().everywhere) await setStage(phase, iteration);
  const seen = () => browser.list.entries.findIndex((e) => e.stage === stage && e.row === row);
  if (seen() < 0) {
    for (const name of ["query", "low", "high"]) fields[name].value = "";
    for (const name of ["chosen", "cut", "everywhere"]) fields[name].checked = false;
    await setStage(phase, iteration);
  }
  browser.list.at = seen();
  browser.list.reveal();
  browser.list.refresh();
  await look({ stage, row }, false, sample);
}

// nothing is unpacked before somebody comes near
async function startBrowser() {
  if (browser.started) return;
  browser.started = true;
  makeControls();
  browser.list = new Listbox($("list"), listRow, (entry, byHand) => look(entry, byHand));
  const phase = stagesOf("eval").length ? "eval" : "rollouts";
  await setStage(phase, stagesOf(phase).at(-1).iteration);
}

function showSamples() {
  if (!RUN.stages.length) return;
  $("samples").hidden = false;
  if (typeof DecompressionStream === "undefined") {
    say("This browser cannot unpack the samples; any from 2023 on can.");
    return;
  }
  const near = new IntersectionObserver(
    (entries) => {
      if (entries.some((entry) => entry.isIntersecting)) {
        near.disconnect();
        startBrowser();
      }
    },
    { rootMargin: "150px" },
  );
  near.observe($("samples"));
}
