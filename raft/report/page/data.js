// What the page knows. Blocks stay packed until one of their rows is looked at.

const RUN = JSON.parse($("run").textContent);
const KEPT_BLOCKS = 12;
const blocks = new Map(); // number -> lines, the latest used last
const indexes = new Map(); // stage number -> its index, once it is unpacked

async function unpacked(number) {
  const binary = atob($(`block-${number}`).textContent);
  const bytes = Uint8Array.from(binary, (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  document.body.dataset.unpacked = Number(document.body.dataset.unpacked) + 1;
  return new Response(stream).text();
}

async function linesOf(number) {
  let lines = blocks.get(number);
  if (lines) blocks.delete(number);
  else lines = (await unpacked(number)).split("\n");
  blocks.set(number, lines);
  if (blocks.size > KEPT_BLOCKS) blocks.delete(blocks.keys().next().value);
  return lines;
}

// {ids, counts, starts, scores: {name: [[…]]}, chosen, cut}, a list of one entry per prompt each
function indexOf(stageNumber) {
  if (!indexes.has(stageNumber)) {
    indexes.set(stageNumber, unpacked(RUN.stages[stageNumber].index).then(JSON.parse));
  }
  return indexes.get(stageNumber);
}

// a stored row: {id, prompt, responses, scores, …}
async function rowOf(stageNumber, row) {
  const stage = RUN.stages[stageNumber];
  let at = stage.blocks.length - 1;
  while (stage.firstRows[at] > row) at -= 1;
  const lines = await linesOf(stage.blocks[at]);
  return JSON.parse(lines[row - stage.firstRows[at]]);
}

// every row of a stage with its number, block by block; the page stays awake in between
async function* rowsOf(stageNumber) {
  const stage = RUN.stages[stageNumber];
  for (const [at, block] of stage.blocks.entries()) {
    const lines = (await unpacked(block)).split("\n");
    for (const [offset, line] of lines.entries()) {
      if (line) yield [stage.firstRows[at] + offset, JSON.parse(line)];
    }
  }
}

function stagesOf(phase) {
  return RUN.stages.map((stage, number) => ({ ...stage, number })).filter((s) => s.phase === phase);
}

const PHASES = { eval: "held-out prompts", rollouts: "training rollouts", ...RUN.phases };
const kindOf = (phase) => phase.split("@")[0]; // "eval@1" are held-out prompts of another run
