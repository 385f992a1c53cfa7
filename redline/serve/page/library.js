// The list of transcripts, and the search in them.

import * as api from "./api.js";
import { attempt, byId, clock, day, element, languageName, speakerLabel } from "./dom.js";

let oldest = null; // the number of the last that is listed
let searching = null; // aborts the search that is under way

const query = () => byId("search").value.trim();

/** Show the newest transcripts, or what is searched for. */
export async function refresh() {
  searching?.abort();
  if (query()) await search();
  else await list();
}

async function list() {
  const page = await api.listTranscripts();
  if (query()) return; // typed meanwhile
  byId("list-title").textContent = "Transcripts";
  byId("list").replaceChildren(...page.transcripts.map(entryItem));
  if (!page.transcripts.length) byId("list").append(element("li", { class: "quiet empty" }, "None yet."));
  showMore(page);
}

function showMore(page) {
  oldest = page.transcripts.at(-1)?.number;
  byId("more").hidden = page.transcripts.length < api.PAGE;
}

function entryItem(entry) {
  const facts = [day(entry.created_at), clock(entry.duration_s), entry.language && languageName(entry.language)];
  return element(
    "li",
    { "data-id": entry.id },
    element(
      "a",
      { href: `#/t/${entry.id}` },
      element("strong", {}, entry.name),
      element("span", { class: "quiet" }, facts.filter(Boolean).join(" · ")),
    ),
  );
}

async function search() {
  searching = new AbortController();
  const { signal } = searching;
  const asked = query();
  const { hits } = await api.searchTranscripts(asked, signal);
  if (signal.aborted || asked !== query()) return;
  byId("list-title").textContent = hits.length ? `${hits.length} found` : "Nothing found";
  byId("list").replaceChildren(...hits.map(hitItem));
  byId("more").hidden = true;
}

function hitItem(hit) {
  const where = [clock(hit.start), hit.speaker && speakerLabel(hit.speaker)].filter(Boolean).join(" · ");
  return element(
    "li",
    { class: "hit" },
    element(
      "a",
      { href: `#/t/${hit.transcript_id}?at=${hit.start}&q=${encodeURIComponent(query())}` },
      element("strong", {}, hit.name, " ", element("span", { class: "quiet" }, where)),
      element("span", { class: "snippet", dir: "auto" }, ...marked(hit.snippet, hit.marks)),
    ),
  );
}

/** The text with what was found marked; marks are places in characters of Unicode. */
function marked(snippet, marks) {
  const characters = [...snippet];
  const parts = [];
  let done = 0;
  for (const [start, end] of marks) {
    parts.push(characters.slice(done, start).join(""), element("mark", {}, characters.slice(start, end).join("")));
    done = end;
  }
  return [...parts, characters.slice(done).join("")];
}

/** Mark the transcript that is shown. */
export function markCurrent(id) {
  for (const item of byId("list").children)
    if (item.dataset.id === id) item.firstChild.setAttribute("aria-current", "page");
    else item.firstChild?.removeAttribute?.("aria-current");
}

let typing = 0;
byId("search").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => attempt(refresh), 200);
});
byId("search-form").addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(typing);
  attempt(refresh);
});
byId("more").addEventListener("click", () =>
  attempt(async () => {
    const page = await api.listTranscripts(oldest);
    byId("list").append(...page.transcripts.map(entryItem));
    showMore(page);
  }),
);
