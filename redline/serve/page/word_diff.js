// Tracked changes: the words of a draft -> the words of the text.

const bare = (word) => word.normalize("NFKC").toLowerCase().replace(/[^\p{L}\p{N}]/gu, "");

/**
 * What became of the draft: a list of {op, draft, first, count}, where `draft` are words of the draft and `first`,
 * `count` say which words of the text. `op` is keep, style (other capitals or punctuation), replace, insert or delete.
 */
export function wordChanges(draft, text) {
  const changes = [];
  const add = (op, words, first, count) => {
    const last = changes.at(-1);
    const joins = last && last.op === op && op !== "style" && last.first + last.count === first;
    if (joins) {
      last.draft.push(...words);
      last.count += count;
    } else changes.push({ op, draft: [...words], first, count });
  };
  let [left, right] = [0, 0];
  for (const [nextLeft, nextRight] of [...commonWords(draft.map(bare), text.map(bare)), [draft.length, text.length]]) {
    const [gone, come] = [draft.slice(left, nextLeft), nextRight - right];
    if (gone.length && come) add("replace", gone, right, come);
    else if (gone.length) add("delete", gone, right, 0);
    else if (come) add("insert", [], right, come);
    if (nextLeft < draft.length && nextRight < text.length)
      add(draft[nextLeft] === text[nextRight] ? "keep" : "style", [draft[nextLeft]], nextRight, 1);
    [left, right] = [nextLeft + 1, nextRight + 1];
  }
  return changes;
}

/**
 * The changes of each segment, as lists with places in its own words. A segment with an empty draft is one that belongs
 * to the draft in front of it: where the speaker changes within a draft, this is not always cut.
 */
export function segmentChanges(segments) {
  const groups = [];
  for (const { text, draft } of segments) {
    const words = split(text);
    if (draft === "" && words.length && groups.length) groups.at(-1).texts.push(words);
    else groups.push({ draft: draft === null ? words : split(draft), texts: [words] });
  }
  return groups.flatMap(({ draft, texts }) => cutChanges(wordChanges(draft, texts.flat()), texts));
}

/** Changes of several texts in a row -> those of each. */
function cutChanges(changes, texts) {
  let start = 0;
  return texts.map((words, number) => {
    const end = start + words.length;
    const isLast = number === texts.length - 1;
    const own = [];
    while (changes.length && (isLast || changes[0].first < end)) {
      const { op, draft, first, count } = changes.shift();
      const inside = Math.min(count, end - first);
      own.push({ op, draft, first: first - start, count: inside });
      if (inside < count) changes.unshift({ op: op === "keep" ? op : "insert", draft: [], first: end, count: count - inside });
    }
    start = end;
    return own;
  });
}

export const split = (text) => text.split(/\s+/).filter(Boolean);

/** A longest common subsequence, as pairs of places. */
function commonWords(a, b) {
  let [head, tail] = [0, 0];
  while (head < a.length && head < b.length && a[head] === b[head]) head++;
  while (tail < a.length - head && tail < b.length - head && a.at(-1 - tail) === b.at(-1 - tail)) tail++;
  const [rows, columns] = [a.length - head - tail, b.length - head - tail];
  const lengths = Array.from({ length: rows + 1 }, () => new Uint16Array(columns + 1));
  for (let i = rows - 1; i >= 0; i--)
    for (let j = columns - 1; j >= 0; j--)
      lengths[i][j] =
        a[head + i] === b[head + j] ? lengths[i + 1][j + 1] + 1 : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
  const pairs = Array.from({ length: head }, (_, at) => [at, at]);
  for (let i = 0, j = 0; i < rows && j < columns; ) {
    if (a[head + i] === b[head + j]) pairs.push([head + i++, head + j++]);
    else if (lengths[i + 1][j] >= lengths[i][j + 1]) i++;
    else j++;
  }
  for (let at = tail; at > 0; at--) pairs.push([a.length - at, b.length - at]);
  return pairs;
}
