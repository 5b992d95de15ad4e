// Addresses of prompts and responses: #at/PHASE/ITERATION/ROW/RESPONSE, counted from 0.

const linkTo = ({ phase, iteration }, row, sample) =>
  `#at/${phase}/${iteration}/${row}${sample === undefined ? "" : `/${sample}`}`;

// open what the address names, where it is on this page
async function openLinked() {
  const [at, phase, ...rest] = decodeURIComponent(location.hash.slice(1)).split("/");
  if (at !== "at" || typeof DecompressionStream === "undefined") return;
  const [iteration, row, sample] = rest.map(Number);
  const stage = RUN.stages.findIndex((one) => one.phase === phase && one.iteration === iteration);
  if (stage < 0 || !(row >= 0 && row < RUN.stages[stage].prompts)) return;
  $("samples").scrollIntoView();
  await openPlace({ stage, row, sample: Number.isInteger(sample) ? sample : null });
}
