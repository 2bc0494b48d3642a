// The state of the job as this page knows it: a snapshot, and the updates after it.

/** The letters of the states of classes, in the order of the legend. `name` is that of the colour
 *  in `style.css`. */
export const STATES = [
  { letter: "s", name: "success", label: "Success" },
  { letter: "k", name: "skipped", label: "Skipped" },
  { letter: "f", name: "failed", label: "Failed" },
  { letter: "r", name: "running", label: "Running" },
  { letter: "w", name: "waiting", label: "Waiting" },
  { letter: "d", name: "delayed", label: "Waiting for a retry" },
];

/** @param {string} letter @returns {string} the letter in the legend: a row of the list that has no
 *  class id counts as failed */
export const shown = (letter) => (letter === "i" ? "f" : letter);

const MAX_POINTS = 3000;
const MAX_MARKS = 500;

export class Model {
  /** Number of the last mark. */
  #mark = 0;

  constructor() {
    /** Whether a snapshot has come. */
    this.loaded = false;
    /** Class ids and letters of the states, by row of the list. */
    this.wnids = [];
    this.states = [];
    /** Number of classes by letter of the legend. */
    this.tally = {};
    /** Row of the list by class id. */
    this.rows = new Map();
    /** `[at_ms, bytes_per_second, limit, open, settled]`, oldest first. */
    this.points = [];
    /** Whether this viewer may retry classes; unknown at first. */
    this.may_retry = undefined;
    /** Changes of the connection limit, oldest first, each with its number. */
    this.marks = [];
    /** When the last message came, by `Date.now()`. */
    this.received = 0;
  }

  /** @returns {number} the time of the coordinator's clock, in Unix milliseconds */
  time() {
    return (this.at_ms ?? 0) + Math.max(0, Date.now() - this.received);
  }

  /** Replaces everything by a `Snapshot` of the API. */
  snapshot(message, now) {
    this.wnids = decodeWnids(message.classes.wnids);
    this.states = decodeStates(message.classes.states);
    this.rows = new Map(this.wnids.map((wnid, row) => [wnid, row]));
    this.rows.delete("");
    this.tally = {};
    for (const letter of this.states) this.#add(letter, 1);
    this.points = decodePoints(message.history.points);
    this.marks = [];
    this.#mark = 0;
    this.#addMarks(message.history.marks);
    this.#figures(message, now);
    this.loaded = true;
  }

  /** Applies an `Update` of the API.
   *  @returns {number[]} the rows whose state has changed */
  update(message, now) {
    const changes = message.classes?.changes ?? [];
    for (const [row, letter] of changes) {
      this.#add(this.states[row], -1);
      this.#add(letter, 1);
      this.states[row] = letter;
    }
    if (message.history) {
      this.points.push(...(message.history.points ?? []).map(inMilliseconds));
      this.points = thinned(this.points);
      this.#addMarks(message.history.marks ?? []);
    }
    this.#figures(message, now);
    return changes.map(([row]) => row);
  }

  #add(letter, number) {
    const name = shown(letter);
    this.tally[name] = (this.tally[name] ?? 0) + number;
  }

  #addMarks(marks) {
    this.marks.push(...marks.map((mark) => ({ ...mark, number: (this.#mark += 1) })));
    this.marks.splice(0, Math.max(0, this.marks.length - MAX_MARKS));
  }

  #figures(message, now) {
    for (const [key, value] of Object.entries(message)) {
      if (key !== "classes" && key !== "history") this[key] = value;
    }
    this.received = now;
  }
}

const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/** Added to a pair of digits that is not the last one of its number. */
const MORE = 2048;
/** Numbers of class ids are below 2^27. */
const MASK = 2 ** 27 - 1;

/** Decodes class ids: differences modulo 2^27 in pairs of base-64 digits with eleven bits each, the
 *  lowest first. The first number follows -1; the difference 0 is a row without an id, "". */
export function decodeWnids(text) {
  const wnids = [];
  let [number, difference, shift] = [-1, 0, 0];
  for (let place = 0; place < text.length; place += 2) {
    const value = DIGITS.indexOf(text[place]) * 64 + DIGITS.indexOf(text[place + 1]);
    difference |= (value % MORE) << shift;
    shift += 11;
    if (value >= MORE) continue;
    number = (number + difference) & MASK;
    wnids.push(difference === 0 ? "" : `n${String(number).padStart(8, "0")}`);
    [difference, shift] = [0, 0];
  }
  return wnids;
}

/** Decodes runs of states: `3sf` is `s`, `s`, `s`, `f`. */
export function decodeStates(text) {
  const runs = text.matchAll(/(\d*)(\D)/g);
  return [...runs].flatMap(([, length, letter]) => new Array(Number(length || 1)).fill(letter));
}

const inMilliseconds = ([at, ...rest]) => [at * 1000, ...rest];

/** Decodes the points of a snapshot: all but the rate are differences to the last known value. */
export function decodePoints(points) {
  const known = [0, 0, 0, 0, 0];
  return points.map((point) => inMilliseconds(point.map((value, column) => {
    if (column === 1 || value === null) return value;
    known[column] += value;
    return known[column];
  })));
}

/** Joins neighbours in the older half when there are too many points, so memory stays bounded: the
 *  rate is their mean, the other values are those of the later one. */
export function thinned(points) {
  if (points.length <= MAX_POINTS) return points;
  const half = Math.floor(points.length / 4) * 2;
  const joined = [];
  for (let place = 0; place < half; place += 2) {
    const [, before] = points[place];
    const later = points[place + 1].slice();
    if (before != null && later[1] != null) later[1] = Math.round((before + later[1]) / 2);
    joined.push(later);
  }
  return joined.concat(points.slice(half));
}
