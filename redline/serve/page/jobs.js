// Recordings in work: uploads of this page, and all jobs of the server that are not over.

import * as api from "./api.js";
import { attempt, byId, element, memory, tell } from "./dom.js";
import { refresh } from "./library.js";

const POLL_MS = 700;
const OPEN = new Set(["queued", "running"]);

const uploads = new Map(); // {name, share, stop} by a number of their own
const followed = new Map(); // what to call with the job once it is over, by id
let uploadNumber = 0;
let shown = []; // the jobs that were open when we last looked
let timer = 0;

/** What the form says about how to transcribe. */
export function jobOptions() {
  const options = {};
  if (byId("speakers").checked && !byId("speakers").disabled) options.speakers = true;
  if (byId("language").value) options.language = byId("language").value;
  const keywords = byId("keywords").value.split(",").map((each) => each.trim()).filter(Boolean);
  if (keywords.length) options.keywords = keywords;
  return options;
}

/** Upload a recording and have it transcribed; resolves to its job once that is over, null where it was stopped. */
export async function transcribe(file, name = file.name) {
  const stopper = new AbortController();
  const number = ++uploadNumber;
  const upload = { name, share: 0, stop: () => stopper.abort() };
  uploads.set(number, upload);
  show();
  const progress = (share) => {
    upload.share = share;
    show();
  };
  try {
    const job = await api.submit(file, name, jobOptions(), { progress, signal: stopper.signal });
    shown = [...shown, job];
    const over = new Promise((resolve) => followed.set(job.id, resolve));
    poll();
    uploads.delete(number);
    show();
    return await over;
  } catch (error) {
    if (error.name === "AbortError") return null;
    throw new Error(`${name}: ${error.message}`);
  } finally {
    uploads.delete(number);
    show();
  }
}

/** Look at the server's jobs, again and again while some are open. */
export async function poll() {
  clearTimeout(timer);
  try {
    const { jobs } = await api.jobs();
    const open = jobs.filter((job) => OPEN.has(job.state));
    const isAnyOver = shown.some((job) => !open.some((each) => each.id === job.id));
    shown = open;
    for (const job of jobs) if (!OPEN.has(job.state)) settle(job);
    show();
    if (isAnyOver) await refresh();
  } catch (error) {
    if (!shown.length && !followed.size) throw error;
  }
  clearTimeout(timer);
  if (shown.length || followed.size) timer = setTimeout(() => attempt(poll), POLL_MS);
}

function settle(job) {
  const resolve = followed.get(job.id);
  if (!resolve) return;
  followed.delete(job.id);
  if (job.state === "failed") tell(`${job.name}: ${job.error?.message ?? "failed"}`, { isError: true });
  resolve(job);
}

function show() {
  const rows = [...uploads.values()].map((each) => row(each.name, "Uploading", each.share, each.stop));
  for (const job of [...shown].reverse()) {
    const isRunning = job.state === "running";
    const { done_s, known_s } = job.progress;
    const share = isRunning && known_s ? done_s / known_s : null;
    rows.push(row(job.name, isRunning ? "Transcribing" : "Waiting", share, () => attempt(() => cancel(job))));
  }
  update(byId("job-list"), rows);
  byId("jobs").hidden = !rows.length;
}

async function cancel(job) {
  await api.cancel(job.id);
  await poll();
}

function row(name, state, share, stop) {
  return { name, state, share, stop };
}

/** Rows that are there stay, so that focus and screen readers are not disturbed twice a second. */
function update(list, rows) {
  while (list.children.length > rows.length) list.lastChild.remove();
  while (list.children.length < rows.length) list.append(emptyRow());
  rows.forEach(({ name, state, share, stop }, at) => {
    const { title, status, bar, button } = list.children[at].parts;
    title.textContent = name;
    status.textContent = share === null ? `${state} …` : `${state} ${Math.floor(share * 100)} %`;
    if (share === null) bar.removeAttribute("value");
    else bar.value = share;
    bar.setAttribute("aria-label", `${state}: ${name}`);
    button.setAttribute("aria-label", `Cancel ${name}`);
    list.children[at].stop = stop;
  });
}

function emptyRow() {
  const parts = {
    title: element("strong"),
    status: element("span", { class: "quiet" }),
    bar: element("progress", { max: "1" }),
    button: element("button", { type: "button", class: "plain", onclick: () => item.stop() }, "Cancel"),
  };
  const item = element("li", { class: "job" }, parts.title, parts.status, parts.bar, parts.button);
  item.parts = parts;
  return item;
}

for (const id of ["language", "keywords"]) {
  byId(id).addEventListener("change", () => memory.set(id, byId(id).value));
  byId(id).value = memory.get(id, "");
}
byId("speakers").checked = memory.get("speakers", true);
byId("speakers").addEventListener("change", () => memory.set("speakers", byId("speakers").checked));
