// A model's text as text, whatever is in it. What would be invisible, or would reorder or overprint
// what stands around it, is shown by name instead.

const SPECIAL = new RegExp(
  "[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f]" + // control characters, but tab and newline
    "|[\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069]" + // direction marks
    "|[\\u00ad\\u180e\\u200b\\u2060-\\u2064\\u206a-\\u206f\\ufeff\\ufff9-\\ufffb]" + // no width
    "|[\\u2028\\u2029]|[\\u{e0000}-\\u{e0fff}]|\\p{Surrogate}",
  "u",
);
const CONTROLS = (
  "NUL SOH STX ETX EOT ENQ ACK BEL BS HT LF VT FF CR SO SI DLE DC1 DC2 DC3 DC4 NAK SYN ETB CAN EM " +
  "SUB ESC FS GS RS US"
).split(" ");
const NAMES = {
  0x007f: "DEL",
  0x061c: "ALM", 0x200e: "LRM", 0x200f: "RLM", 0x202a: "LRE", 0x202b: "RLE", 0x202c: "PDF",
  0x202d: "LRO", 0x202e: "RLO", 0x2066: "LRI", 0x2067: "RLI", 0x2068: "FSI", 0x2069: "PDI",
  0x00ad: "SHY", 0x200b: "ZWSP", 0x2060: "WJ", 0xfeff: "BOM", 0x2028: "LS", 0x2029: "PS",
};
// more marks on one letter than any script needs run over the lines around it
const MARKS = /\p{M}{5,}/gu;
const MARKS_SHOWN = 4;
const RUNS = new RegExp(`(?:${SPECIAL.source})+`, "gu");

function nameOf(code) {
  if (code < 0x20) return CONTROLS[code];
  return NAMES[code] ?? `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
}

// six NULs as "NUL×6"
function namesOf(run) {
  const parts = [];
  for (const character of run) {
    const name = nameOf(character.codePointAt(0));
    const last = parts.at(-1);
    if (last && last.name === name) last.times += 1;
    else parts.push({ name, times: 1 });
  }
  return parts.map(({ name, times }) => (times > 1 ? `${name}×${times}` : name)).join(" ");
}

const chip = (text, title) => el("span", { class: "chip", title }, text);

function withoutFloods(text) {
  const parts = [];
  let at = 0;
  for (const { 0: flood, index } of text.matchAll(MARKS)) {
    const marks = [...flood];
    const kept = marks.slice(0, MARKS_SHOWN).join("");
    parts.push(text.slice(at, index) + kept);
    parts.push(chip(`+${marks.length - MARKS_SHOWN} marks`, "combining marks left out here"));
    at = index + flood.length;
  }
  parts.push(text.slice(at));
  return parts;
}

// nodes that show `text`; with `needle` what matches is marked
function shown(text, needle) {
  if (needle) {
    const nodes = [];
    let at = 0;
    for (const { 0: found, index } of text.matchAll(needle)) {
      if (!found) continue;
      nodes.push(...shown(text.slice(at, index)), el("mark", {}, shown(found)));
      at = index + found.length;
    }
    return [...nodes, ...shown(text.slice(at))];
  }
  const nodes = [];
  let at = 0;
  for (const { 0: run, index } of text.matchAll(RUNS)) {
    nodes.push(...withoutFloods(text.slice(at, index)));
    nodes.push(chip(namesOf(run), "characters that would not be seen"));
    // what breaks lines goes on doing so
    if (/[\r\u2028\u2029]/.test(run) && text[index + run.length] !== "\n") nodes.push("\n");
    at = index + run.length;
  }
  nodes.push(...withoutFloods(text.slice(at)));
  return nodes;
}

function needleOf(query) {
  const words = query.trim();
  return words ? new RegExp(words.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&"), "giu") : null;
}

// where a cut does not part a surrogate pair
function cutAt(text, length) {
  const code = text.charCodeAt(length - 1);
  return length < text.length && code >= 0xd800 && code < 0xdc00 ? length - 1 : length;
}

const SHORT = 1000;
const LINES = 24;
const PAGE = 60000;

// a box of text: its beginning, and the rest page by page when it is asked for
function textBox(text, needle, limit = SHORT) {
  const body = el("div", { class: "text", dir: "auto" });
  const box = el("div", { class: "textbox" }, body);
  let to = cutAt(text, Math.min(limit, text.length));
  const lines = text.slice(0, to).split("\n", LINES + 1);
  if (lines.length > LINES) to = lines.slice(0, LINES).join("\n").length;
  body.append(...shown(text.slice(0, to), needle));
  if (text === "") body.append(el("span", { class: "empty" }, "(empty)"));
  if (to >= text.length) return box;
  const more = button("", () => {
    const next = cutAt(text, Math.min(to + PAGE, text.length));
    body.append(...shown(text.slice(to, next), needle));
    to = next;
    name();
  });
  function name() {
    const left = text.length - to;
    if (left === 0) more.remove();
    else if (left <= PAGE) more.textContent = `Show all ${count(text.length)} characters`;
    else more.textContent = `Show ${count(PAGE)} more of ${count(text.length)} characters`;
  }
  name();
  box.append(more);
  return box;
}
