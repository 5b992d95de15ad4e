// The list as it is filtered now, as a CSV file: a line for each response.

// spreadsheets run what begins like a formula
const cell = (value) => {
  const text = value === null || value === undefined ? "" : String(value);
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replace(/"/g, '""')}"` : safe;
};

async function csvOf(entries, filters) {
  const names = [...new Set(entries.flatMap(({ stage }) => Object.keys(RUN.stages[stage].ranges)))];
  const lines = [["phase", "iteration", "id", "prompt", "sample", "response", ...names, "chosen"]];
  const needle = needleOf(filters.query);
  for (const { stage, row } of entries) {
    const [index, content] = await Promise.all([indexOf(stage), rowOf(stage, row)]);
    const { phase, iteration } = RUN.stages[stage];
    const prompt = promptText(content.prompt);
    const whole = !needle || found(needle, prompt) || found(needle, content.id);
    for (const k of samplesKept(index, row, filters)) {
      if (!whole && !found(needle, content.responses[k])) continue;
      const scores = names.map((name) => content.scores[name]?.[k]);
      const chosen = content.chosen?.includes(k) ? 1 : 0;
      const sample = content.numbers?.[k] ?? k;
      lines.push([phase, iteration, content.id, prompt, sample, content.responses[k], ...scores, chosen]);
    }
  }
  return lines.map((line) => `${line.map(cell).join(",")}\r\n`).join("");
}

async function saveCsv(entries, filters) {
  const url = URL.createObjectURL(new Blob(["\ufeff", await csvOf(entries, filters)], { type: "text/csv" }));
  el("a", { href: url, download: `${RUN.title}.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
