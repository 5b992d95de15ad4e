// One response: its scores, how it ended, its text.

// where each score of a prompt lies between the stage's lowest and highest
function strip(scores, chosen, range) {
  const width = 120;
  const node = svg("svg", { class: "strip", viewBox: `0 0 ${width} 16`, "aria-hidden": "true" });
  node.append(svg("line", { class: "rule", x1: 0, x2: width, y1: 8, y2: 8 }));
  if (!range) return node;
  const x = scale(range[0], range[1], 5, width - 5);
  const order = scores.map((score, i) => ({ score, on: chosen.includes(i) }));
  // the chosen ones lie on top
  for (const { score, on } of order.sort((a, b) => a.on - b.on)) {
    if (score === null) continue;
    node.append(svg("circle", { class: on ? "on" : "off", cx: x(score), cy: 8, r: on ? 4 : 3 }));
  }
  return node;
}

const tag = (text, kind = "", title = null) => el("span", { class: `tag ${kind}`, title }, text);

function scoreTags(row, k, measure) {
  return Object.entries(row.scores).map(([name, scores]) => {
    const what = name === "reward" ? measure : name;
    const score = scores[k];
    return el(
      "span",
      { class: "score" },
      el("span", {}, what),
      el("b", {}, score === null ? "missing" : plain(score)),
    );
  });
}

function endTag(reason) {
  if (reason === undefined) return null;
  if (reason === "length") return tag("cut at the limit", "warn", "finish reason: length");
  return tag(reason === "stop" ? "ended" : reason, "", `finish reason: ${reason}`);
}

// the card of response `k`; `dim` says that the filters or the search leave it out
function sampleCard(row, k, { measure, needle, dim, lit, link }) {
  const facts = [
    row.tokens?.[k] != null && counted(row.tokens[k], "token"),
    row.version !== undefined && `policy ${row.version}`,
  ].filter(Boolean);
  const chosen = row.chosen?.includes(k);
  const number = (row.numbers?.[k] ?? k) + 1;
  return el(
    "section",
    {
      class: `sample${chosen ? " chosen" : ""}${dim ? " dim" : ""}${lit ? " lit" : ""}`,
      "aria-label": `Response ${number}${chosen ? ", chosen" : ""}`, "data-sample": k,
    },
    el(
      "header",
      {},
      el("h4", {}, el("a", { href: link, title: "link to this response" }, `#${number}`)),
      scoreTags(row, k, measure),
      chosen ? tag("chosen", "good") : null,
      row.rejected?.includes(k) ? tag("rejected", "warn", "the rejected side of a pair") : null,
      endTag(row.finish?.[k]),
      el("span", { class: "facts", title: row.seeds?.[k] != null ? `seed ${row.seeds[k]}` : null }, facts.join(" · ")),
    ),
    textBox(row.responses[k], needle),
  );
}

function promptBox(prompt, needle) {
  if (typeof prompt === "string") return textBox(prompt, needle, 2500);
  return el(
    "div",
    { class: "turns" },
    prompt.map(({ role, content }) =>
      el("div", {}, el("p", { class: "role" }, shown(role)), textBox(content, needle)),
    ),
  );
}
