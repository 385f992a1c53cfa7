// A transcript as paragraphs of words: times, confidence, the draft's tracked changes, corrections.

import { clock, element, speakerLabel } from "./dom.js";
import { segmentChanges, split } from "./word_diff.js";

const UNSURE = 0.5;
const VERY_UNSURE = 0.3;

/**
 * The words of a segment's text: {text, start, end, confidence}. Times are those of the recognizer, where its words
 * are those of the text, or shared out by length.
 */
function wordsOf(segment) {
  const texts = split(segment.text);
  const known = segment.words ?? [];
  if (known.length === texts.length && known.every((word, at) => word.text === texts[at])) return known;
  const total = texts.reduce((sum, text) => sum + text.length, 0) || 1;
  let done = 0;
  const at = () => segment.start + ((segment.end - segment.start) * done) / total;
  return texts.map((text) => {
    const start = at();
    done += text.length;
    return { text, start, end: at(), confidence: null, speaker: segment.speaker };
  });
}

/** Neighbouring segments of one speaker, up to a length that reads well: [{speaker, start, segments: [index]}]. */
function paragraphsOf(segments) {
  const paragraphs = [];
  let length = 0;
  segments.forEach((segment, index) => {
    if (!segment.text && !segment.draft) return;
    const last = paragraphs.at(-1);
    const goesOn = last && last.speaker === segment.speaker && length < 600 && segment.start - last.end < 3;
    if (goesOn) {
      last.segments.push(index);
      last.end = segment.end;
    } else paragraphs.push({ speaker: segment.speaker, start: segment.start, end: segment.end, segments: [index] });
    length = (goesOn ? length : 0) + segment.text.length;
  });
  return paragraphs;
}

/** Fill `place` with a transcript; returns its words in order: {element, start, end, segment, word, text}. */
export function showWords(place, { machine, speakers, corrections }, onRename) {
  const shown = [];
  const bySegment = Map.groupBy?.(corrections, (each) => each.segment) ?? grouped(corrections);
  const changes = segmentChanges(machine.segments);
  let before = null;
  const made = paragraphsOf(machine.segments).map((paragraph) => {
    const text = element("p", { class: "said", dir: "auto" });
    for (const index of paragraph.segments)
      showSegment(text, machine.segments[index], index, changes[index], bySegment.get(index) ?? [], shown);
    const isNew = paragraph.speaker !== before;
    before = paragraph.speaker;
    const label = paragraph.speaker !== null && isNew ? speakerButton(paragraph.speaker, speakers[paragraph.speaker], onRename) : null;
    const time = element("span", { class: "time" }, clock(paragraph.start));
    return element("div", { class: "paragraph" }, element("div", { class: "gutter" }, label, time), text);
  });
  place.replaceChildren(...made);
  if (!made.length) place.append(element("p", { class: "quiet" }, "No speech was found in this recording."));
  return shown;
}

function grouped(corrections) {
  const groups = new Map();
  for (const each of corrections) groups.set(each.segment, [...(groups.get(each.segment) ?? []), each]);
  return groups;
}

function speakerButton(label, called, onRename) {
  const name = called ?? speakerLabel(label);
  const title = `Rename ${name}`;
  return element("button", { class: "speaker", type: "button", title, onclick: () => onRename(label) }, name);
}

function showSegment(place, segment, index, changes, corrections, shown) {
  const words = wordsOf(segment);
  const texts = words.map((word) => word.text);
  const starts = new Map(corrections.map((each) => [each.word, each]));
  let covered = 0; // words up to here are replaced by a correction
  const spansOf = (first, count) => {
    const spans = [];
    for (let at = first; at < first + count; at++) {
      const correction = starts.get(at);
      if (at < covered) continue;
      covered = at + (correction?.count ?? 1);
      const last = words[Math.min(covered, words.length) - 1];
      const word = { ...words[at], end: last.end, segment: index, word: at, count: covered - at };
      word.machine = texts.slice(at, covered).join(" ");
      word.text = correction?.text ?? word.text;
      word.element = wordSpan(word, Boolean(correction));
      shown.push(word);
      spans.push(word.element, " ");
    }
    return spans;
  };
  for (const { op, draft: gone, first, count } of changes) {
    if (op === "replace" || op === "delete") place.append(element("del", {}, gone.join(" ")), " ");
    const spans = spansOf(first, count);
    if (op === "keep") place.append(...spans);
    else if (spans.length) {
      const isStyle = op === "style";
      const title = isStyle ? `Draft: ${gone.join(" ")}` : null;
      place.append(element("ins", { class: isStyle ? "style" : null, title }, ...spans.slice(0, -1)), " ");
    }
  }
}

function wordSpan({ text, machine, confidence }, isCorrected) {
  const classes = ["word"];
  const isUnsure = confidence !== null && confidence < UNSURE && !isCorrected;
  if (isUnsure) classes.push(confidence < VERY_UNSURE ? "very-unsure" : "unsure");
  if (isCorrected) classes.push("corrected");
  const notes = [];
  if (isCorrected) notes.push(`Corrected; the model wrote: ${machine}`);
  if (isUnsure) notes.push(`Confidence ${Math.round(confidence * 100)} %`);
  const title = notes.join("\n") || null;
  return element("span", { class: classes.join(" "), title, tabindex: "-1" }, text || "∅");
}

/** The place of the word at a time: the last that has begun, -1 in front of the first. */
export function wordAt(words, seconds) {
  let [low, high] = [0, words.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (words[middle].start <= seconds + 0.02) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}
