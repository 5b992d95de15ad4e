// Which prompts a filter, a score range and a search leave, and in which order.

const ORDERS = [
  ["stored", "as stored"],
  ["high", "highest mean"],
  ["low", "lowest mean"],
  ["best", "best sample"],
  ["spread", "widest spread"],
];

// the samples of one prompt that pass every filter
function samplesKept(index, row, filters) {
  const scores = index.scores[filters.by]?.[row] ?? [];
  let kept = Array.from({ length: index.counts[row] }, (_, i) => i);
  if (filters.chosen) kept = kept.filter((i) => index.chosen[row].includes(i));
  if (filters.cut) kept = kept.filter((i) => index.cut[row].includes(i));
  if (filters.low !== null) kept = kept.filter((i) => scores[i] != null && scores[i] >= filters.low);
  if (filters.high !== null) kept = kept.filter((i) => scores[i] != null && scores[i] <= filters.high);
  return kept;
}

const filtering = (filters) =>
  filters.chosen || filters.cut || filters.low !== null || filters.high !== null;

const promptText = (prompt) =>
  typeof prompt === "string" ? prompt : prompt.map((turn) => turn.content).join("\n");

function found(needle, text) {
  const hit = needle.test(text);
  needle.lastIndex = 0; // a global expression goes on where it was
  return hit;
}

// does the search hit the prompt, its id, or a response that the filters keep?
function rowMatches(row, kept, needle) {
  if (found(needle, row.id) || found(needle, promptText(row.prompt))) return true;
  return row.responses.some((text, i) => (kept === null || kept.has(i)) && found(needle, text));
}

// entries {stage, row}; `report(entries, share)` hears of them as they come, and says false to stop
async function matching(stages, filters, report) {
  const needle = needleOf(filters.query);
  const all = stages.reduce((sum, stage) => sum + stage.prompts, 0);
  const entries = [];
  let seen = 0;
  let told = performance.now();
  for (const { number } of stages) {
    const index = await indexOf(number);
    const narrow = filtering(filters);
    const rows = new Map();
    for (let row = 0; row < index.ids.length; row += 1) {
      const kept = narrow ? samplesKept(index, row, filters) : null;
      if (kept === null || kept.length) rows.set(row, kept && new Set(kept));
    }
    if (!needle) {
      for (const row of rows.keys()) entries.push({ stage: number, row });
      seen += index.ids.length;
      if (!report(entries, seen / all)) return null;
      continue;
    }
    for await (const [row, content] of rowsOf(number)) {
      seen += 1;
      if (rows.has(row) && rowMatches(content, rows.get(row), needle)) entries.push({ stage: number, row });
      if (performance.now() - told > 150) {
        if (!report(entries, seen / all)) return null;
        // lets the page answer its reader
        await new Promise((done) => setTimeout(done));
        told = performance.now();
      }
    }
  }
  return ordered(entries, filters);
}

async function ordered(entries, { order, by }) {
  if (order === "stored") return entries;
  const known = new Map();
  for (const { stage } of entries) if (!known.has(stage)) known.set(stage, await indexOf(stage));
  const value = ({ stage, row }) => {
    const scores = (known.get(stage).scores[by]?.[row] ?? []).filter((score) => score !== null);
    if (!scores.length) return -Infinity; // what has no score comes last
    if (order === "high") return mean(scores);
    if (order === "low") return -mean(scores);
    if (order === "best") return Math.max(...scores);
    return Math.max(...scores) - Math.min(...scores);
  };
  return entries
    .map((entry) => ({ entry, value: value(entry) }))
    .sort((a, b) => (a.value === b.value ? 0 : b.value - a.value))
    .map(({ entry }) => entry);
}
