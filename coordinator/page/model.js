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
    this.states = message.classes.states.split("");
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

/** Decodes class ids: the first number and then differences, in base 36; "" for a row without an
 *  id. */
export function decodeWnids(text) {
  let number = 0;
  if (text === "") return [];
  return text.split(",").map((difference) => {
    if (difference === "") return "";
    number += parseInt(difference, 36);
    return `n${String(number).padStart(8, "0")}`;
  });
}

const inMilliseconds = ([at, ...rest]) => [at * 1000, ...rest];

/** Decodes the points of a snapshot: time and settled classes are differences to those before. */
export function decodePoints(points) {
  let [at, settled] = [0, 0];
  return points.map(([after, bytes, limit, open, more]) => {
    at += after;
    settled += more;
    return inMilliseconds([at, bytes, limit, open, settled]);
  });
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
