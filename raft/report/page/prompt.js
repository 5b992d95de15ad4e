// Everything about one prompt: what was asked, its K responses, and the same prompt elsewhere.

const AT_ONCE = 16; // responses; more are asked for
let shownPrompt = 0; // counts what was asked for, so that a late answer is not shown

// `view` = {filters, bestFirst, sample, moveBy, open, setBestFirst}
async function showPrompt({ stage, row }, view) {
  shownPrompt += 1;
  const turn = shownPrompt;
  const [index, content] = await Promise.all([indexOf(stage), rowOf(stage, row)]);
  if (turn !== shownPrompt) return false;
  const known = RUN.stages[stage];
  const needle = needleOf(view.filters.query);
  const elsewhere = el("div", { class: "elsewhere" });
  $("detail").replaceChildren(
    el(
      "header",
      { class: "prompt-head" },
      el("h3", {}, el("a", { href: linkTo(known, row), title: "link to this prompt" }, shown(content.id))),
      el("p", {}, `${PHASES[known.phase]}, iteration ${known.iteration}`),
      el(
        "div",
        { class: "move" },
        button("← Previous", () => view.moveBy(-1)),
        button("Next →", () => view.moveBy(1)),
      ),
    ),
    elsewhere,
    el("h4", { class: "part" }, "Prompt"),
    promptBox(content.prompt, needle),
    ...responses(content, index, row, known, needle, view),
  );
  $("detail").scrollTop = 0;
  $("detail").querySelector(".lit")?.scrollIntoView({ block: "nearest" });
  await fillElsewhere(elsewhere, content.id, { stage, row }, view, () => turn === shownPrompt);
  return true;
}

function responses(content, index, row, known, needle, view) {
  const all = content.responses.map((_, k) => k);
  const scores = content.scores[view.filters.by] ?? [];
  const kept = new Set(samplesKept(index, row, view.filters));
  const inPrompt = needle && (found(needle, promptText(content.prompt)) || found(needle, content.id));
  const passes = all.map((k) => kept.has(k) && (!needle || inPrompt || found(needle, content.responses[k])));
  if (view.bestFirst) {
    // what matches comes before what does not
    all.sort((a, b) => passes[b] - passes[a] || (scores[b] ?? -Infinity) - (scores[a] ?? -Infinity) || a - b);
  }
  const card = (k) =>
    sampleCard(content, k, {
      measure: known.measure, needle, dim: !passes[k], lit: k === view.sample, link: linkTo(known, row, k),
    });
  // the response that a list pointed at is among the first
  const first = Math.max(AT_ONCE, all.indexOf(view.sample) + 1);
  const place = el("div", { class: "responses" }, all.slice(0, first).map(card));
  const passing = passes.filter(Boolean).length;
  const some = passing < all.length ? `, ${passing} of them ${passing === 1 ? "matches" : "match"}` : "";
  const order = el(
    "select",
    { onchange: (event) => view.setBestFirst(event.target.value === "best") },
    options([["drawn", "as drawn"], ["best", "best first"]], view.bestFirst ? "best" : "drawn"),
  );
  const head = el(
    "div",
    { class: "headed" },
    el("h4", { class: "part" }, counted(all.length, "response") + some),
    labelled("Order", order, "field inline"),
  );
  if (all.length <= first) return [head, place];
  const more = button(`Show the other ${all.length - first}`, () => {
    place.append(...all.slice(first).map(card));
    more.remove();
  });
  return [head, place, more];
}

// buttons to the same prompt in other iterations, and all of them below one another
async function fillElsewhere(place, id, here, view, current) {
  const { phase, comparable } = RUN.stages[here.stage];
  const places = [];
  const phases = Object.keys(PHASES).filter((one) => kindOf(one) === kindOf(phase));
  phases.sort((a, b) => (b === phase) - (a === phase));
  for (const { number, iteration, phase: of } of phases.flatMap(stagesOf)) {
    const index = await indexOf(number);
    if (!current()) return;
    const row = number === here.stage ? here.row : index.ids.indexOf(id);
    const name = of === phase ? String(iteration) : `${PHASES[of].split(" of ").slice(1).join(" of ") || RUN.title} ${iteration}`;
    if (row >= 0) places.push({ stage: number, row, iteration, name, mean: mean(index.scores.reward?.[row]) });
  }
  if (places.length < 2) return;
  const compared = el("div", { class: "compared", hidden: true });
  const toggle = button(
    "Compare",
    async () => {
      compared.hidden = !compared.hidden;
      toggle.setAttribute("aria-expanded", String(!compared.hidden));
      if (compared.childElementCount) return;
      const bests = await Promise.all(places.map(bestAt));
      const own = places.findIndex((one) => one.stage === here.stage);
      const to = own > 0 ? own : places.length - 1;
      compared.append(
        el("h5", {}, `Words that differ: best response of iteration ${places[0].name} → ${places[to].name}`),
        differenceBox(bests[0].text, bests[to].text),
        ...places.map((one, i) => bestOf(one, bests[i], view)),
      );
    },
    { "aria-expanded": "false" },
  );
  place.append(
    el(
      "div",
      { class: "places", role: "group", "aria-label": "The same prompt in other iterations" },
      el("span", {}, "Same prompt, iteration"),
      places.map((one) =>
        button(
          [one.name, comparable && one.mean !== null ? el("small", {}, plain(one.mean, 2)) : null],
          () => view.open(one),
          { "aria-current": one.stage === here.stage ? "true" : null, title: "mean of its responses below" },
        ),
      ),
      toggle,
    ),
    compared,
  );
}

async function bestAt({ stage, row }) {
  const content = await rowOf(stage, row);
  const scores = content.scores.reward ?? [];
  const best = scores.reduce((to, score, k) => (score !== null && (scores[to] ?? -Infinity) < score ? k : to), 0);
  return { content, best, text: content.responses[best] ?? "" };
}

function bestOf({ stage, row, name }, { content, best }, view) {
  const known = RUN.stages[stage];
  return el(
    "div",
    {},
    el("h5", {}, `Iteration ${name}, best response`, button("Open", () => view.open({ stage, row }))),
    sampleCard(content, best, {
      measure: known.measure, needle: needleOf(view.filters.query), dim: false, lit: false,
      link: linkTo(known, row, best),
    }),
  );
}
