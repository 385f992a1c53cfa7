// Elements, texts and times. Text of others becomes text nodes, never markup.

/** A new element: `element("a", {href, class: "x", onclick: go, hidden: true}, "text", child, null)`. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const byId = (id) => document.getElementById(id);

/** Seconds -> 1:02:03 or 2:03, rounded down: who plays from there misses nothing. */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const tail = `${String(rest).padStart(2, "0")}`;
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${tail}` : `${minutes}:${tail}`;
}

/** Seconds since 1970 -> a date as people of here write it. */
export function day(seconds) {
  const then = new Date(seconds * 1000);
  const isToday = then.toDateString() === new Date().toDateString();
  const form = isToday ? { hour: "2-digit", minute: "2-digit" } : { day: "numeric", month: "short", year: "numeric" };
  return new Intl.DateTimeFormat(undefined, form).format(then);
}

const languageNames = new Intl.DisplayNames(undefined, { type: "language" });

/** en -> English. */
export function languageName(code) {
  try {
    return languageNames.of(code) ?? code;
  } catch {
    return code;
  }
}

/** A speaker's number as `Speaker 1`, a name as it is. */
export const speakerLabel = (speaker) => (/^\d+$/.test(speaker) ? `Speaker ${speaker}` : speaker);

/** Tell what happened, to eyes and to screen readers. */
export function tell(message, { isError = false } = {}) {
  const note = byId("note");
  note.textContent = message;
  note.classList.toggle("error", isError);
  note.classList.add("shown");
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => note.classList.remove("shown"), isError ? 12_000 : 4_000);
}

/** Run what a click asked for; a failure is told. */
export async function attempt(action) {
  try {
    return await action();
  } catch (error) {
    if (error.name !== "AbortError") tell(error.message, { isError: true });
    return undefined;
  }
}

/** What the page remembers on this device. */
export const memory = {
  get: (name, fallback) => {
    try {
      return JSON.parse(localStorage.getItem(`redline.${name}`)) ?? fallback;
    } catch {
      return fallback;
    }
  },
  set: (name, value) => localStorage.setItem(`redline.${name}`, JSON.stringify(value)),
};

/** A dialog that is answered: resolves to its return value, "" where it was closed otherwise. */
export function ask(dialog) {
  dialog.returnValue = "";
  dialog.querySelector("[data-cancel]").onclick = () => dialog.close(); // no submit button: Enter takes the first of those
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true });
  });
}
