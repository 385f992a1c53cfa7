// The page: which view is shown, files that are dropped, keys.

import * as api from "./api.js";
import { attempt, byId, element, languageName, memory, tell } from "./dom.js";
import { poll, transcribe } from "./jobs.js";
import { markCurrent, refresh } from "./library.js";
import * as live from "./live.js";
import * as player from "./player.js";
import * as transcript from "./transcript.js";

const view = () => document.body.dataset.view;

/** #/, #/record, #/t/ID?at=SECONDS */
async function route() {
  if (location.hash && !location.hash.startsWith("#/")) return; // the skip link
  const [path, parameters] = location.hash.slice(2).split("?");
  const [room, id] = path.split("/");
  const at = new URLSearchParams(parameters).get("at");
  const next = room === "t" && id ? "transcript" : room === "record" ? "live" : "welcome";
  if (view() === "transcript" && next !== "transcript") transcript.close();
  document.body.dataset.view = next;
  if (next === "transcript")
    try {
      await transcript.open(decodeURIComponent(id), at === null ? null : Number(at));
    } catch (error) {
      tell(error.message, { isError: true });
      location.hash = "#/";
    }
  markCurrent(next === "transcript" ? decodeURIComponent(id) : null);
  const titles = { welcome: "Redline", live: "Record – Redline", transcript: `${transcript.name()} – Redline` };
  document.title = titles[next];
  if (at === null && next !== "welcome") {
    byId("main").focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

/** Transcribe files; the text of a single one is shown when it is there, if nobody went elsewhere. */
async function add(files) {
  const from = location.hash;
  const all = [...files].map((file) => attempt(() => transcribe(file)));
  const jobs = await Promise.all(all);
  if (jobs.length === 1 && location.hash === from) await show(jobs[0]);
}

async function show(job) {
  if (job?.state !== "done") return;
  location.hash = `#/t/${job.transcript_id}`;
}

async function record() {
  if (view() !== "live") location.hash = "#/record";
  await attempt(async () => {
    if (!live.isRecording()) return live.start();
    const job = await live.stop();
    if (view() === "live") await show(job);
  });
}

byId("record-button").addEventListener("click", record);
byId("upload-button").addEventListener("click", () => byId("files").click());
byId("files").addEventListener("change", () => {
  add(byId("files").files);
  byId("files").value = "";
});

let depth = 0; // dragenter and dragleave come for every element on the way
addEventListener("dragenter", () => document.body.classList.toggle("dropping", ++depth > 0));
addEventListener("dragleave", () => document.body.classList.toggle("dropping", --depth > 0));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  document.body.classList.remove("dropping");
  if (event.dataTransfer.files.length) add(event.dataTransfer.files);
});

const keys = {
  " ": player.toggle,
  j: () => player.skip(-5),
  l: () => player.skip(5),
  e: transcript.correctChosen,
  w: transcript.goToPlayed,
  c: () => transcript.toggleMode("changes"),
  u: () => transcript.toggleMode("unsure"),
  "/": () => byId("search").focus(),
  o: () => byId("files").click(),
  r: record,
  "?": () => byId("shortcuts").showModal(),
};
const needsTranscript = new Set([" ", "j", "l", "e", "w", "c", "u"]);

addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.defaultPrevented) return;
  if (!memory.get("shortcuts", true) || document.querySelector("dialog[open]")) return;
  const { target, key } = event;
  if (target.closest("input:not([type=range], [type=checkbox]), textarea, select")) return;
  if (key === " " && target.closest("button, a, summary, input")) return;
  const action = keys[key.toLowerCase()];
  if (!action || (needsTranscript.has(key.toLowerCase()) && view() !== "transcript")) return;
  event.preventDefault();
  action();
});

byId("shortcuts-button").addEventListener("click", () => byId("shortcuts").showModal());
byId("use-shortcuts").checked = memory.get("shortcuts", true);
byId("use-shortcuts").addEventListener("change", () => memory.set("shortcuts", byId("use-shortcuts").checked));
byId("search").addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !byId("search").value) byId("main").focus();
});
addEventListener("click", (event) => {
  if (!event.target.closest("#export")) byId("export").open = false;
});
byId("export").addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  byId("export").open = false;
  byId("export").querySelector("summary").focus();
});

await attempt(async () => {
  const { languages, formats, tells_speakers } = await api.settings();
  byId("speakers").disabled = !tells_speakers;
  const choices = languages.map((code) => [languageName(code), code]).sort();
  byId("language").append(...choices.map(([name, code]) => element("option", { value: code }, name)));
  byId("language").value = memory.get("language", "");
  if (byId("language").selectedIndex < 0) byId("language").value = "";
  transcript.setFormats(formats);
});
addEventListener("hashchange", route);
await Promise.all([attempt(refresh), attempt(poll), route()]);
document.documentElement.dataset.ready = "";
