// The player: one recording, its controls, and the word that is said now.

import { byId, clock, memory } from "./dom.js";

const audio = byId("audio");
const position = byId("position");
let listener = () => {};
let objectUrl = null;
let durationS = 0; // as the transcript says, until the browser knows

/** Load a recording; `onTime` gets the second that is played. */
export function load(source, seconds, onTime) {
  unload();
  listener = onTime;
  durationS = seconds;
  objectUrl = source.startsWith("blob:") ? source : null;
  audio.src = source;
  audio.playbackRate = Number(byId("speed").value);
  byId("player").hidden = false;
  showTime();
}

export function unload() {
  audio.pause();
  audio.removeAttribute("src");
  if (objectUrl) URL.revokeObjectURL(objectUrl);
  [objectUrl, listener] = [null, () => {}];
  byId("player").hidden = true;
}

export const isLoaded = () => audio.hasAttribute("src");

export function seek(seconds, { play = false } = {}) {
  if (!isLoaded()) return;
  audio.currentTime = Math.max(0, seconds);
  showTime();
  if (play) audio.play().catch(() => {}); // the browser may want a click first
}

export const skip = (seconds) => seek(audio.currentTime + seconds);

export function toggle() {
  if (!isLoaded()) return;
  if (audio.paused) audio.play().catch(() => {});
  else audio.pause();
}

function showTime() {
  const total = Number.isFinite(audio.duration) ? audio.duration : durationS;
  position.max = total;
  position.value = audio.currentTime;
  position.setAttribute("aria-valuetext", `${clock(audio.currentTime)} of ${clock(total)}`);
  position.style.setProperty("--played", `${total ? (100 * audio.currentTime) / total : 0}%`);
  byId("elapsed").textContent = clock(audio.currentTime);
  byId("total").textContent = clock(total);
  listener(audio.currentTime);
}

function follow() {
  if (audio.paused) return;
  showTime();
  requestAnimationFrame(follow);
}

function showState() {
  byId("play").classList.toggle("playing", !audio.paused);
  byId("play").setAttribute("aria-label", audio.paused ? "Play" : "Pause");
}

audio.addEventListener("play", follow);
for (const event of ["play", "pause", "ended"]) audio.addEventListener(event, showState);
for (const event of ["seeked", "loadedmetadata", "pause"]) audio.addEventListener(event, showTime);
byId("play").addEventListener("click", toggle);
position.addEventListener("input", () => seek(Number(position.value)));
byId("speed").value = memory.get("speed", "1");
byId("speed").addEventListener("change", () => {
  audio.playbackRate = Number(byId("speed").value);
  memory.set("speed", byId("speed").value);
});
showState();
