// One transcript: its text with the player, what to show of it, names, corrections, export, deletion.

import * as api from "./api.js";
import { ask, attempt, byId, clock, day, element, languageName, memory, speakerLabel, tell } from "./dom.js";
import { refresh } from "./library.js";
import * as player from "./player.js";
import { showWords, wordAt } from "./words.js";

let entry = null; // as the server gave it
let words = [];
let current = -1; // the word that is played
let chosen = 0; // the word that the keyboard is at
const place = byId("words");

/** Show a transcript, at a time of it where one is asked for. */
export async function open(id, at) {
  if (entry?.id !== id) {
    close();
    show(await api.transcript(id));
    if (entry.has_audio) player.load(await api.sourceOf(api.audioPath(id)), entry.duration_s, showPlayed);
  }
  if (at !== null) {
    player.seek(at);
    const found = Math.max(0, wordAt(words, at));
    showPlayed(at);
    choose(found, { focus: true });
  }
}

export function close() {
  player.unload();
  place.replaceChildren();
  [entry, words, current, chosen] = [null, [], -1, 0];
}

export const name = () => entry?.name ?? "";

function show(shown) {
  entry = shown;
  const { machine } = entry;
  byId("title").textContent = entry.name;
  const facts = [day(entry.created_at), clock(entry.duration_s), entry.language && languageName(entry.language)];
  byId("facts").textContent = [...facts, entry.model].filter(Boolean).join(" · ");
  words = showWords(place, entry, renameSpeaker);
  words.forEach((word, at) => (word.element.at = at));
  current = -1;
  if (words.length) choose(Math.min(chosen, words.length - 1));
  const hasDraft = machine.segments.some((segment) => segment.draft !== null);
  byId("show-changes").disabled = !hasDraft;
  const notices = machine.warnings.map((each) => {
    const time = each.start === null ? null : element("a", { href: `#/t/${entry.id}?at=${each.start}` }, clock(each.start));
    return element("li", {}, time, time && " ", each.message);
  });
  byId("warnings").replaceChildren(...notices);
  byId("warnings").hidden = !notices.length;
  showFormats();
  showModes();
}

/** Mark the word that is said at a time, and keep it in view while it plays. */
function showPlayed(seconds) {
  const at = wordAt(words, seconds);
  if (at === current) return;
  words[current]?.element.classList.remove("current");
  current = at;
  const element = words[at]?.element;
  if (!element) return;
  element.classList.add("current");
  const { top, bottom } = element.getBoundingClientRect();
  const isEditing = place.querySelector("input") !== null;
  if (!isEditing && (top < 80 || bottom > innerHeight - 120))
    element.scrollIntoView({ block: "center", behavior: matchMedia("(prefers-reduced-motion)").matches ? "auto" : "smooth" });
}

/** The word that Tab reaches; arrows go on from it. */
function choose(at, { focus = false } = {}) {
  if (!words[at]) return;
  words[chosen]?.element.setAttribute("tabindex", "-1");
  chosen = at;
  words[at].element.setAttribute("tabindex", "0");
  if (focus) words[at].element.focus();
}

place.addEventListener("click", (event) => {
  const at = event.target.closest(".word")?.at;
  if (at === undefined || !getSelection().isCollapsed) return;
  choose(at, { focus: true });
  player.seek(words[at].start);
  showPlayed(words[at].start);
});
place.addEventListener("dblclick", (event) => {
  const at = event.target.closest(".word")?.at;
  if (at !== undefined) correct(at);
});
place.addEventListener("focusin", (event) => {
  if (event.target.at !== undefined && event.target.at !== chosen) choose(event.target.at);
});
place.addEventListener("keydown", (event) => {
  if (!event.target.classList.contains("word") || event.altKey || event.ctrlKey || event.metaKey) return;
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, Home: -Infinity, End: Infinity };
  if (event.key in steps) {
    const at = Math.max(0, Math.min(words.length - 1, chosen + steps[event.key]));
    choose(at, { focus: true });
  } else if (event.key === "Enter") player.seek(words[chosen].start, { play: true });
  else if (event.key === "F2") correct(chosen);
  else return;
  event.preventDefault();
});

/** Go to the word that is played. */
export const goToPlayed = () => choose(Math.max(0, current), { focus: true });

/** Correct the word that the keyboard is at, or the one that is played. */
export function correctChosen() {
  const isAtWord = document.activeElement?.classList.contains("word");
  correct(isAtWord || current < 0 ? chosen : current);
}

function correct(at) {
  const word = words[at];
  if (!word || place.querySelector("input")) return;
  choose(at);
  getSelection().removeAllRanges();
  const input = element("input", { class: "correction", value: word.text, "aria-label": `Correct “${word.text}”` });
  input.size = Math.max(4, word.text.length + 1);
  word.element.replaceWith(input);
  let isOver = false;
  const end = async (isKept) => {
    if (isOver) return;
    isOver = true;
    const text = input.value.trim().replace(/\s+/g, " ");
    const isChanged = isKept && text !== word.text;
    const isFocused = document.activeElement === input;
    input.replaceWith(word.element);
    if (isFocused) choose(at, { focus: true });
    if (!isChanged) return;
    const correction = { segment: word.segment, word: word.word, count: word.count, text };
    await attempt(async () => {
      show(await api.change(entry.id, { corrections: [correction] }));
      if (isFocused) choose(at, { focus: true });
      tell(text === word.machine ? "Correction taken back." : "Correction kept.");
    });
  };
  input.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Enter") end(true);
    if (event.key === "Escape") end(false);
    if (event.key === "Enter" || event.key === "Escape") event.preventDefault();
  });
  input.addEventListener("input", () => (input.size = Math.max(4, input.value.length + 1)));
  input.addEventListener("blur", () => end(true));
  input.focus();
  input.select();
}

/** What is typed in the dialog for names, or null. */
async function askName(title, label, value) {
  byId("name-title").textContent = title;
  byId("name-label").textContent = label;
  byId("name-input").value = value;
  const answer = ask(byId("name-dialog"));
  byId("name-input").select();
  const isSaved = (await answer) === "save";
  return isSaved ? byId("name-input").value.trim() || null : null;
}

async function renameSpeaker(label) {
  const old = entry.speakers[label] ?? speakerLabel(label);
  const called = await askName(`Who is ${old}?`, "Name", entry.speakers[label] ?? "");
  if (called === null) return;
  await attempt(async () => show(await api.change(entry.id, { speakers: { [label]: called } })));
  [...place.querySelectorAll(".speaker")].find((each) => each.textContent === called)?.focus();
}

byId("rename-button").addEventListener("click", async () => {
  const called = await askName("Rename this recording", "Name", entry.name);
  if (called === null) return;
  await attempt(async () => {
    show(await api.change(entry.id, { name: called }));
    await refresh();
  });
});

byId("delete-button").addEventListener("click", async () => {
  if ((await ask(byId("delete-dialog"))) !== "delete") return;
  await attempt(async () => {
    await api.remove(entry.id);
    tell(`${entry.name} is deleted.`);
    close();
    location.hash = "#/";
    await refresh();
  });
});

const modes = { changes: memory.get("changes", false), unsure: memory.get("unsure", true) };

/** Show or hide the tracked changes, or the shading of unsure words. */
export function toggleMode(mode, isOn = !modes[mode]) {
  modes[mode] = isOn;
  memory.set(mode, isOn);
  showModes();
}

function showModes() {
  const changes = modes.changes && !byId("show-changes").disabled;
  place.classList.toggle("with-changes", changes);
  place.classList.toggle("with-unsure", modes.unsure);
  byId("show-text").setAttribute("aria-pressed", String(!changes));
  byId("show-changes").setAttribute("aria-pressed", String(changes));
  byId("show-unsure").setAttribute("aria-pressed", String(modes.unsure));
  const legend = [];
  if (changes)
    legend.push(
      element("span", {}, element("del", {}, "draft"), " ", element("ins", {}, "edited")),
      element("span", {}, element("ins", { class: "style" }, "Capitals, marks")),
    );
  if (modes.unsure)
    legend.push(element("span", {}, element("span", { class: "unsure" }, "unsure"), " ", element("span", { class: "very-unsure" }, "very unsure")));
  legend.push(element("span", {}, element("span", { class: "corrected" }, "corrected"), " by hand"));
  byId("legend").replaceChildren(...legend);
}

byId("show-text").addEventListener("click", () => toggleMode("changes", false));
byId("show-changes").addEventListener("click", () => toggleMode("changes", true));
byId("show-unsure").addEventListener("click", () => toggleMode("unsure"));

let formats = [];

/** The formats that the server writes. */
export function setFormats(names) {
  formats = names;
}

function showFormats() {
  const links = formats.map((format) => {
    const path = api.exportPath(entry.id, format, byId("export-changes").checked && ["docx", "md"].includes(format));
    const link = element("a", { href: path, download: "" }, format);
    link.addEventListener("click", (event) => {
      byId("export").open = false;
      if (!api.apiKey()) return;
      event.preventDefault(); // a link cannot carry the key
      attempt(() => saveFrom(path, `${entry.name}.${format}`));
    });
    return element("li", {}, link);
  });
  byId("formats").replaceChildren(...links);
}

async function saveFrom(path, fileName) {
  const url = await api.copyOf(path);
  element("a", { href: url, download: fileName }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

byId("export-corrections").addEventListener("click", (event) => {
  event.preventDefault(); // where there are none, the server says so
  attempt(() => saveFrom("/v1/corrections/export", "corrections.zip"));
});
byId("export-changes").addEventListener("change", showFormats);
