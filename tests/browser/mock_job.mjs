// An invented job of a mock coordinator: classes, workers, failures and history as the API shows
// them. Nothing is random, so that a page looks alike each time.

const FIRST_WNID = 1_440_764;
const STEP = 37;
const LENGTH = 120_000_000;
const MAX_POINTS = 960;
/** Every so many classes one is missing at the origin. */
const MISSING = 97;
const STORAGE = { kind: "StorageError", reason: "no space left on device (os error 28)" };
const LETTERS = { s: "success", k: "skipped", f: "failed", r: "leased", w: "pending" };

const wave = (at, length) => Math.sin((2 * Math.PI * at) / length);

export class MockJob {
  /** @param {{classes: number, workers: number, settled: number, failing: boolean}} options
   *  `settled`: part of the classes that are settled at the start, between 0 and 1 */
  constructor({ classes = 30, workers = 3, settled = 0.4, failing = true } = {}, now = Date.now()) {
    this.started = now - Math.round(3_600_000 * settled);
    this.failing = failing;
    this.sequence = 0;
    this.wnids = Array.from({ length: classes }, (_, row) => this.#wnid(row, classes));
    this.rows = new Map(this.wnids.map((wnid, row) => [wnid, row]));
    this.states = new Array(classes).fill("w");
    this.workers = Array.from({ length: workers }, (_, place) => this.#worker(place, now));
    this.marks = [];
    this.points = [];
    this.phase = "running";
    this.sentence = "";
    this.retried = [];
    this.changes = new Map();
    this.next = Math.floor(classes * settled);
    for (let row = 0; row < this.next; row += 1) {
      this.states[row] = row < classes * 0.03 ? "k" : this.#outcome(row);
    }
    this.leased = this.next;
    this.#lease();
    if (settled > 0) this.#remember(now);
    this.changes.clear();
  }

  #wnid(row, classes) {
    const hasNone = this.failing && classes > 1000 && row === classes - 1;
    return hasNone ? "" : `n${String(FIRST_WNID + row * STEP).padStart(8, "0")}`;
  }

  #worker(place, now) {
    const name = `node-${String(place).padStart(4, "0")}`;
    const rate = 400_000 + Math.round(180_000 * wave(place, 40));
    return {
      name, state: "active", since_ms: now - 3_000_000 + place * 1000, slots: 10, leased: 0,
      success: 20 + (place % 7), skipped: 1, failed: place % 50 === 0 ? 1 : 0,
      bytes_per_second: rate, received_bytes: rate * 3000, build: "0.1.0",
      host: `10.0.${place >> 8}.${place & 255}`,
      disk_free: place % 9 === 8 ? null : 1_000_000_000_000 - place * 700_000_000,
      waits_for: place % 4 === 1 ? "limit of 24 connections" : "",
    };
  }

  #remember(now) {
    const span = now - this.started;
    for (let place = 0; place < MAX_POINTS; place += 1) {
      const at = Math.round(this.started + (span * place) / MAX_POINTS);
      const limit = place < 300 ? 16 : place < 330 ? 8 : 24;
      const settled = Math.round((this.next * place) / MAX_POINTS);
      this.points.push([at, Math.round(4e8 + 1e8 * wave(place, 380) + 2e7 * wave(place, 17)), limit,
        limit - 1, settled]);
    }
    const at = (part) => Math.round(this.started + span * part);
    this.marks = [
      { at_ms: at(0.01), limit: 16,
        why: "at most 16 connections instead of 1: 20 were not faster" },
      { at_ms: at(0.3125), limit: 8,
        why: "the origin broke 14 connections together: none for 3.2 s, then at most 8" },
      { at_ms: at(0.34375), limit: 16,
        why: "at most 16 connections instead of 8: more have failed or were refused before" },
      { at_ms: at(0.35), limit: 24,
        why: "at most 24 connections instead of 16: 30 were not faster" },
    ];
  }

  #outcome(row) {
    return this.failing && (row % MISSING === 5 || this.#isStorage(row)) ? "f" : "s";
  }

  #isStorage(row) {
    return row === 200 || row === 201;
  }

  #set(row, letter) {
    this.states[row] = letter;
    this.changes.set(row, letter);
  }

  #lease() {
    const slots = this.workers.filter(({ state }) => state === "active").length * 8;
    while (this.leased < this.states.length && this.leased - this.next < slots) {
      if (this.wnids[this.leased] === "") this.#set(this.leased, "i");
      else this.#set(this.leased, "r");
      this.leased += 1;
    }
  }

  /** Settles up to `classes` of the running ones. */
  step(classes, now = Date.now()) {
    for (let settled = 0; settled < classes && this.next < this.leased; settled += 1) {
      if (this.states[this.next] === "r") this.#set(this.next, this.#outcome(this.next));
      this.next += 1;
    }
    this.#lease();
    if (this.next === this.states.length) {
      this.phase = "done";
      this.ended ??= now;
    }
    const speed = this.phase === "done" ? 0 : 4e8;
    this.points.push([now, speed, 24, speed ? 22 : 0, this.next]);
    if (this.points.length > MAX_POINTS * 2) this.points.shift();
  }

  /** Changes a worker. */
  setWorker(name, values, now = Date.now()) {
    const worker = this.workers.find((one) => one.name === name);
    Object.assign(worker, { since_ms: now }, values);
  }

  /** The rows of each state. */
  #byState() {
    const rows = { s: [], k: [], f: [], r: [], w: [], d: [], i: [] };
    this.states.forEach((letter, row) => rows[letter].push(row));
    return rows;
  }

  #job(rows) {
    const job = Object.fromEntries(Object.entries(LETTERS).map(([letter, name]) =>
      [name, rows[letter].length]));
    const isDone = this.phase === "done";
    const left = (job.leased + job.pending) * 860;
    return {
      total: this.states.length, ...job, failed: rows.f.length + rows.i.length,
      pending: rows.w.length + rows.d.length,
      received_bytes: job.success * LENGTH, done: isDone,
      started_at_ms: this.started, ended_at_ms: this.ended ?? null,
      time_left_ms: isDone || this.points.length < 2 ? null : left,
      time_left_low_ms: Math.round(left * 0.85), time_left_high_ms: Math.round(left * 1.3),
    };
  }

  /** The workers, those in trouble first. */
  ranked(sort = "trouble") {
    for (const worker of this.workers) worker.leased = 0;
    for (let row = this.next; row < this.leased; row += 1) {
      if (this.states[row] === "r") this.workers[row % this.workers.length].leased += 1;
    }
    const order = ["lost", "silent", "quarantined", "draining", "active"];
    const rank = ({ state }) => order.indexOf(state);
    const all = [...this.workers];
    if (sort === "name") return all.sort((one, other) => one.name.localeCompare(other.name));
    const byRate = (one, other) => one.bytes_per_second - other.bytes_per_second;
    if (sort === "rate") return all.sort(byRate);
    return all.sort((one, other) => rank(one) - rank(other) || byRate(one, other));
  }

  #workers() {
    const states = {};
    for (const { state } of this.workers) states[state] = (states[state] ?? 0) + 1;
    const rates = this.workers.filter(({ state }) => state === "active")
      .map(({ bytes_per_second: rate }) => rate).sort((one, other) => one - other);
    const at = (part) => rates[Math.round((rates.length - 1) * part)];
    return {
      total: this.workers.length, states, first: this.ranked().slice(0, 10),
      bytes_per_second: rates.length ? [0, 0.25, 0.5, 0.75, 1].map(at) : null,
    };
  }

  #holder(row) {
    return this.workers.length ? this.workers[row % this.workers.length].name : null;
  }

  #bytes(row, now) {
    return Math.round(((now / 300 + row * 31) % 100) * (LENGTH / 100));
  }

  #transfers(rows, now) {
    const first = rows.slice(0, 40).map((row, place) => ({
      wnid: this.wnids[row], worker: this.#holder(row), bytes: this.#bytes(row, now),
      length: place === 4 ? 0 : LENGTH, step: place === 7 ? "publish" : "download",
      attempt: place === 2 ? 2 : 1,
    }));
    return { total: rows.length, first };
  }

  #failure(row) {
    if (this.#isStorage(row)) return STORAGE;
    const url = `https://origin.example/${this.wnids[row]}.tar`;
    return { kind: "HTTPError", reason: `404 Client Error: Not Found for url: ${url}` };
  }

  #failures({ f: failed, i: invalid }) {
    const group = (rows, kind, message, worker, retryable) => ({
      kind, message, count: rows.length, retryable, worker,
      classes: rows.slice(0, 20).map((row) => this.wnids[row]),
    });
    const missing = failed.filter((row) => !this.#isStorage(row));
    const storage = failed.filter((row) => this.#isStorage(row));
    const groups = [];
    if (missing.length) {
      groups.push(group(missing, "HTTPError", "404 Client Error: Not Found", null, false));
    }
    if (storage.length) {
      const worker = this.workers[5]?.name ?? null;
      groups.push(group(storage, STORAGE.kind, STORAGE.reason, worker, true));
    }
    return { total: failed.length, groups, invalid_rows: invalid.length };
  }

  #figures(now) {
    this.sequence += 1;
    const rows = this.#byState();
    const isIdle = this.phase === "done" || this.workers.length === 0;
    return {
      api: 1, version: "0.1.0", run_id: "5f3a9c21", epoch: 2, seq: this.sequence, at_ms: now,
      job: this.#job(rows),
      state: { phase: this.phase, sentence: this.sentence, until_ms: null, dry: false },
      origin: {
        limit: 24, open: isIdle ? 0 : 22, wanted: 400, bytes_per_second: isIdle ? 0 : 4e8,
        upper_bound: null, requests: 9_000, cuts: 17, refusals: 4, overloads: 1,
        quiet_until_ms: null, first_failure: null,
      },
      workers: this.#workers(), transfers: this.#transfers(rows.r, now),
      failures: this.#failures(rows),
      command: "coordinator retry --connect http://127.0.0.1:50051",
    };
  }

  /** @returns {object} a `Snapshot` of the API */
  snapshot(now = Date.now()) {
    return {
      ...this.#figures(now),
      classes: { wnids: encodeWnids(this.wnids), states: encodeStates(this.states) },
      history: { points: encodePoints(this.points), marks: this.marks },
    };
  }

  /** @returns {object} an `Update` of the API with what changed since the last one */
  update(now = Date.now()) {
    const changes = [...this.changes];
    this.changes.clear();
    const points = this.points.slice(-1).map(([at, ...rest]) => [Math.round(at / 1000), ...rest]);
    return { ...this.#figures(now), classes: { changes }, history: { points, marks: [] } };
  }

  /** @returns {object} a class as `api/v1/classes` has it; `null` if it is not in the list */
  classOf(wnid, now = Date.now()) {
    const row = this.rows.get(wnid);
    if (row === undefined) return null;
    const state = this.states[row];
    const isRunning = state === "r";
    const hasWorker = "srf".includes(state);
    return {
      wnid, state, worker: hasWorker ? this.#holder(row) : null, attempts: hasWorker ? 1 : 0,
      bytes: isRunning ? this.#bytes(row, now) : state === "s" ? LENGTH : 0,
      length: hasWorker ? LENGTH : 0, failure: state === "f" ? this.#failure(row) : null,
      at_ms: "sfk".includes(state) ? this.started + row * 100 : null,
    };
  }

  /** Puts failed classes back; `[]` means all of them. @returns {number} how many */
  retry(wnids) {
    const rows = [...this.states.keys()].filter((row) => this.states[row] === "f" &&
      (wnids.length === 0 || wnids.includes(this.wnids[row])));
    for (const row of rows) this.#set(row, "d");
    this.retried.push(wnids);
    return rows.length;
  }
}

/** The points as in a snapshot: all but the rate are differences to the last known value. */
export function encodePoints(points) {
  const known = [0, 0, 0, 0, 0];
  return points.map(([at, ...rest]) => [Math.round(at / 1000), ...rest].map((value, column) => {
    if (column === 1 || value === null) return value;
    const difference = value - known[column];
    known[column] = value;
    return difference;
  }));
}

const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

const pair = (value) => DIGITS[value >> 6] + DIGITS[value & 63];

/** The class ids as in a snapshot: differences modulo 2^27 in pairs of digits. */
export function encodeWnids(wnids) {
  let before = -1;
  let text = "";
  for (const wnid of wnids) {
    const number = wnid === "" ? before : Number(wnid.slice(1));
    let rest = (number - before) & (2 ** 27 - 1);
    before = number;
    for (; rest >= 2048; rest >>= 11) text += pair(rest % 2048 + 2048);
    text += pair(rest);
  }
  return text;
}

/** The states as in a snapshot: runs of equal letters. */
export function encodeStates(states) {
  return states.join("").replace(/(.)\1+/g, (run, letter) => `${run.length}${letter}`);
}
