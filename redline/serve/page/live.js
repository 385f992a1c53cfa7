// Recording in the page: microphone -> PCM -> live text, and at the end a recording to transcribe whole.

import { apiKey } from "./api.js";
import { attempt, byId, clock, element, tell } from "./dom.js";
import { jobOptions, transcribe } from "./jobs.js";

const RATE = 16_000;
let recording = null; // {context, stream, node, socket, pieces, samples, rate}

export const isRecording = () => recording !== null;

/** Begin to record; raises where there is no microphone. */
export async function start() {
  if (recording) return;
  if (!navigator.mediaDevices)
    throw new Error("The browser gives the microphone to pages on this machine or over https only.");
  recording = { pieces: [], samples: 0, socket: null, isSpoken: false };
  setState("Waiting for the microphone …");
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
    recording.stream = stream;
    const [context, source] = openedAt(RATE, stream) ?? openedAt(undefined, stream);
    Object.assign(recording, { context, rate: context.sampleRate });
    await context.audioWorklet.addModule("/page/pcm_worklet.js");
    recording.node = new AudioWorkletNode(context, "pcm", { numberOfOutputs: 0 });
    source.connect(recording.node);
    await context.resume();
  } catch (error) {
    release();
    setState("Press Record, and speak.");
    throw new Error(error.name === "NotAllowedError" ? "The microphone was not allowed." : error.message);
  }
  byId("committed").replaceChildren();
  byId("partial").textContent = "";
  connect(recording);
  recording.node.port.onmessage = ({ data }) => take(data);
  setState("Listening");
  showButtons();
}

/** An audio context and the microphone in it; null where the browser does not resample. */
function openedAt(sampleRate, stream) {
  const context = new AudioContext(sampleRate ? { sampleRate } : {});
  try {
    return [context, context.createMediaStreamSource(stream)];
  } catch (error) {
    context.close();
    if (!sampleRate) throw error;
    return null;
  }
}

function take({ pcm, peak, isLast }) {
  if (!recording) return;
  if (isLast) {
    recording.onLast?.();
    return;
  }
  recording.pieces.push(pcm);
  recording.samples += pcm.byteLength / 2;
  const { socket } = recording;
  if (socket?.readyState === WebSocket.OPEN) socket.send(pcm);
  byId("live-clock").textContent = clock(recording.samples / recording.rate);
  byId("level").style.setProperty("--level", String(Math.min(1, Math.sqrt(peak))));
}

function connect(mine) {
  const protocols = apiKey() ? ["redline-live", `openai-insecure-api-key.${apiKey()}`] : ["redline-live"];
  const socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}/v1/live`, protocols);
  mine.socket = socket;
  mine.ended = new Promise((resolve) => (mine.onEnded = resolve));
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    const { language, keywords } = jobOptions();
    socket.send(JSON.stringify({ kind: "start", sample_rate: mine.rate, language: language ?? null, keywords: keywords ?? [] }));
    for (const piece of mine.pieces) socket.send(piece); // what was said meanwhile
  };
  socket.onmessage = ({ data }) => showEvent(mine, JSON.parse(data));
  socket.onclose = () => {
    mine.onEnded();
    if (recording === mine && !mine.isStopping) setState("Recording; there is no live text", { isError: true });
  };
}

function showEvent(mine, event) {
  if (event.kind === "partial") byId("partial").textContent = event.text;
  else if (event.kind === "committed") {
    const committed = byId("committed");
    if (event.text) {
      if (!committed.lastChild || mine.isPause) committed.append(element("p", { dir: "auto" }));
      committed.lastChild.append(`${event.text} `);
    }
    mine.isPause = event.pause && committed.lastChild?.textContent.length > 240;
    byId("partial").textContent = "";
  } else if (event.kind === "error") tell(`Live text has ended: ${event.error.message}`, { isError: true });
  byId("partial").scrollIntoView({ block: "nearest" });
}

/** Stop, wait for the last text, and have the recording transcribed whole; resolves to its job. */
export async function stop() {
  const mine = recording;
  if (!mine?.node || mine.isStopping) return null;
  mine.isStopping = true;
  setState("Writing the last words …");
  await new Promise((resolve) => {
    mine.onLast = resolve;
    mine.node.port.postMessage("flush");
    setTimeout(resolve, 1_000);
  });
  if (mine.socket.readyState === WebSocket.OPEN) {
    mine.socket.send(JSON.stringify({ kind: "end" }));
    await Promise.race([mine.ended, new Promise((resolve) => setTimeout(resolve, 30_000))]);
  }
  const file = new Blob([wavHeader(mine.samples, mine.rate), ...mine.pieces], { type: "audio/wav" });
  release();
  showButtons();
  if (!mine.samples) {
    setState("Nothing was recorded.");
    return null;
  }
  setState("Reading it again as a whole …");
  const time = new Intl.DateTimeFormat("sv", { dateStyle: "short", timeStyle: "short" }).format(new Date());
  const name = `Recording ${time}`;
  try {
    return await transcribe(file, `${name.replaceAll(":", ".")}.wav`);
  } catch (error) {
    offer(file, name);
    throw error;
  }
}

/** The recording as a file, where the server did not take it. */
function offer(file, name) {
  const link = element("a", { href: URL.createObjectURL(file), download: `${name}.wav` }, "Save it as a file");
  setState("The server did not take the recording. ", { isError: true });
  byId("live-state").append(link);
}

export function discard() {
  recording?.socket?.close();
  release();
  byId("committed").replaceChildren();
  byId("partial").textContent = "";
  byId("live-clock").textContent = "0:00";
  setState("Press Record, and speak.");
  showButtons();
}

function release() {
  const mine = recording;
  recording = null;
  for (const track of mine?.stream?.getTracks() ?? []) track.stop();
  mine?.context?.close();
  byId("level").style.setProperty("--level", "0");
}

function setState(text, { isError = false } = {}) {
  byId("live-state").textContent = text;
  byId("live-state").classList.toggle("error", isError);
}

function showButtons() {
  const button = byId("record-button");
  button.classList.toggle("recording", isRecording());
  button.setAttribute("aria-label", isRecording() ? "Stop" : "Record");
  byId("discard-button").hidden = !isRecording();
}

function wavHeader(samples, rate) {
  const view = new DataView(new ArrayBuffer(44));
  const text = (at, value) => [...value].forEach((letter, offset) => view.setUint8(at + offset, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // one channel
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * samples, true);
  return view.buffer;
}

byId("discard-button").addEventListener("click", discard);
addEventListener("beforeunload", (event) => {
  if (isRecording()) event.preventDefault();
});
