// The words that differ between two texts, by their longest common subsequence.

const MOST_WORDS = 800; // of a text; the table of the comparison has as many rows and columns

const wordsOf = (text) => (text.match(/\s+|[^\s]+/gu) ?? []).slice(0, 2 * MOST_WORDS);

// [kind, text] in order; kind is "same", "old" or "new"
function differing(before, after) {
  const a = wordsOf(before);
  const b = wordsOf(after);
  const wide = b.length + 1;
  const common = new Uint16Array((a.length + 1) * wide);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      const at = i * wide + j;
      common[at] = a[i] === b[j] ? common[at + wide + 1] + 1 : Math.max(common[at + wide], common[at + 1]);
    }
  }
  const parts = [];
  const add = (kind, text) => {
    if (parts.at(-1)?.[0] === kind) parts.at(-1)[1] += text;
    else parts.push([kind, text]);
  };
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      add("same", a[i]);
      i += 1;
      j += 1;
    } else if (j === b.length || (i < a.length && common[(i + 1) * wide + j] >= common[i * wide + j + 1])) {
      add("old", a[i]);
      i += 1;
    } else {
      add("new", b[j]);
      j += 1;
    }
  }
  return parts;
}

function differenceBox(before, after) {
  const tags = { same: "span", old: "del", new: "ins" };
  return el(
    "div",
    { class: "text", dir: "auto" },
    differing(before, after).map(([kind, text]) => el(tags[kind], {}, shown(text))),
  );
}
