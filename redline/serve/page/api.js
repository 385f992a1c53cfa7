// The server's routes, and the API key where it wants one.

import { ask, byId } from "./dom.js";

const KEY = "redline.api-key"; // for this tab alone
/** Transcripts that are listed at once. */
export const PAGE = 50;
const PIECE_BYTES = 4 << 20;

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const apiKey = () => sessionStorage.getItem(KEY);

let asking = null;

/** Ask for the API key, once for all who need it now. */
function askForKey(message) {
  asking ??= (async () => {
    byId("key-reason").textContent = message;
    const answer = await ask(byId("key-dialog"));
    if (answer === "use") sessionStorage.setItem(KEY, byId("key-input").value.trim());
    byId("key-input").value = "";
    return answer === "use";
  })().finally(() => (asking = null));
  return asking;
}

/** A reply of the server; raises `ApiError` with its message. */
export async function call(method, path, { json, body, headers = {}, signal } = {}) {
  const sent = { ...headers };
  if (apiKey()) sent.Authorization = `Bearer ${apiKey()}`;
  if (json !== undefined) sent["Content-Type"] = "application/json";
  let reply;
  try {
    reply = await fetch(path, { method, headers: sent, body: json === undefined ? body : JSON.stringify(json), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server does not answer.");
  }
  if (reply.ok) return reply;
  const message = (await reply.json().catch(() => null))?.error?.message ?? `The server says ${reply.status}.`;
  if (reply.status === 401 && (await askForKey(message))) return call(method, path, { json, body, headers, signal });
  throw new ApiError(reply.status, message);
}

const get = async (path, options) => (await call("GET", path, options)).json();
const segmentOf = encodeURIComponent;

export const settings = () => get("/page/settings.json");

export const listTranscripts = (before) => get(`/v1/transcripts?limit=${PAGE}${before ? `&before=${before}` : ""}`);
export const searchTranscripts = (query, signal) => get(`/v1/transcripts?q=${segmentOf(query)}&limit=50`, { signal });
export const transcript = (id) => get(`/v1/transcripts/${segmentOf(id)}`);
export const change = async (id, json) => (await call("PATCH", `/v1/transcripts/${segmentOf(id)}`, { json })).json();
export const remove = (id) => call("DELETE", `/v1/transcripts/${segmentOf(id)}`);

export const jobs = () => get("/v1/jobs?limit=100");
export const cancel = (id) => call("DELETE", `/v1/jobs/${segmentOf(id)}`);

/** A copy of what a route gives, as the address of an object in memory. */
export const copyOf = async (path) => URL.createObjectURL(await (await call("GET", path)).blob());

/** What an element may load by itself: the route, or, where that needs a key, a copy. */
export const sourceOf = async (path) => (apiKey() ? copyOf(path) : path);

export const audioPath = (id) => `/v1/transcripts/${segmentOf(id)}/audio`;

export function exportPath(id, format, showEdits) {
  return `/v1/transcripts/${segmentOf(id)}/export?format=${format}${showEdits ? "&edits=true" : ""}`;
}

/** Upload a recording piece by piece, and submit a job for it; `progress` gets the share that is there. */
export async function submit(file, name, options, { progress, signal }) {
  const begun = await (await call("POST", "/v1/uploads", { json: { name, length: file.size }, signal })).json();
  let offset = 0;
  while (offset < file.size) {
    const piece = file.slice(offset, offset + PIECE_BYTES);
    offset = await sendPiece(`/v1/uploads/${segmentOf(begun.id)}`, offset, piece, signal);
    progress(offset / file.size);
  }
  return (await call("POST", "/v1/jobs", { json: { upload: begun.id, ...options }, signal })).json();
}

/** Send a piece, again where the line broke; returns how much of the whole is there. */
async function sendPiece(path, offset, piece, signal) {
  for (let wait_ms = 1_000; ; wait_ms *= 2) {
    try {
      const headers = { "Upload-Offset": String(offset), "Content-Type": "application/offset+octet-stream" };
      await call("PATCH", path, { body: piece, headers, signal });
      return offset + piece.size;
    } catch (error) {
      if (!(error instanceof ApiError) || ![0, 408, 409, 423, 429, 503].includes(error.status) || wait_ms > 32_000) throw error;
      await new Promise((resolve) => setTimeout(resolve, wait_ms));
      const head = await call("HEAD", path, { signal }).catch(() => null);
      const there = Number(head?.headers.get("Upload-Offset") ?? offset);
      if (there !== offset) return there;
    }
  }
}
