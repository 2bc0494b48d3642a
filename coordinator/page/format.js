// Figures as text. Sizes have powers of 1000, as the programs print them. An unknown figure (`null`
// or `undefined`) is the empty text.

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];
const DAY = 86_400_000;
const numbers = new Intl.NumberFormat("en");

/** @param {number?} bytes @returns {string} for example "12.3 MB" */
export function size(bytes) {
  if (bytes == null) return "";
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 || value >= 99.95 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}

/** @param {number?} bytes a second @returns {string} */
export const rate = (bytes) => (bytes == null ? "" : `${size(bytes)}/s`);

/** @param {number?} number @returns {string} with separators of thousands */
export const count = (number) => (number == null ? "" : numbers.format(number));

/** @param {number} number @param {string} word @returns {string} "1 class", "2 classes" */
export function several(number, word) {
  const ending = word.endsWith("s") ? "es" : "s";
  return `${count(number)} ${word}${number === 1 ? "" : ending}`;
}

/** @returns {string} a percentage; "100 %" only if it is all, "0 %" only if it is none */
export function percent(part, whole) {
  if (!whole) return "0 %";
  const value = (100 * part) / whole;
  if (part < whole && value > 99.9) return "99.9 %";
  if (part > 0 && value < 0.1) return "0.1 %";
  if (part === 0 || part === whole) return `${value} %`;
  return `${value.toFixed(value < 10 || value > 99 ? 1 : 0)} %`;
}

/** @param {number?} ms @returns {string} in the two largest units */
export function duration(ms) {
  if (ms == null) return "";
  const seconds = Math.max(0, Math.round(ms / 1000));
  const days = Math.floor(seconds / 86400);
  const hours = Math.floor(seconds / 3600) % 24;
  const minutes = Math.floor(seconds / 60) % 60;
  if (days > 0) return `${days} d ${hours} h`;
  if (hours > 0) return `${hours} h ${minutes} min`;
  if (minutes >= 10) return `${minutes} min`;
  if (minutes > 0) return `${minutes} min ${seconds % 60} s`;
  return `${seconds} s`;
}

const TIME = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
const formats = {
  seconds: new Intl.DateTimeFormat([], { ...TIME, second: "2-digit" }),
  minutes: new Intl.DateTimeFormat([], TIME),
  days: new Intl.DateTimeFormat([], { month: "short", day: "numeric" }),
};

/** @param {number} at Unix milliseconds @param {number} now if another day: with the date
 *  @returns {string} the viewer's local time */
export function clock(at, now = at) {
  const time = formats.seconds.format(at);
  return Math.abs(now - at) < DAY ? time : `${formats.days.format(at)}, ${time}`;
}

/** The text of a tick of a time axis.
 *  @param {number} at Unix milliseconds @param {number} step to the next tick, in milliseconds */
export function tick(at, step) {
  if (step >= DAY) return formats.days.format(at);
  return (step < 60_000 ? formats.seconds : formats.minutes).format(at);
}
