// The stream of server-sent events, read with `fetch` because `EventSource` cannot send a token.
// Where the stream does not arrive (a proxy collects answers, too many viewers), the page asks for
// snapshots instead.

/** The coordinator sends an event every 5 s or more often. */
const STREAM_TIMEOUT = 12_000;
/** Time between two snapshots: one of 21,843 classes has more than 90 KB, and a viewer is to cost
 *  about 30 KB/s. */
const POLL_INTERVAL = 4_000;
/** For how long the page asks for snapshots before it tries the stream again. */
const POLL_TIME = 60_000;
/** Bytes of the buffer that the stream is read into. */
const BUFFER_BYTES = 65_536;
/** Delays before the next attempt. */
const RETRY_DELAYS = [500, 1_000, 2_000, 5_000];
const UNAUTHORIZED = 401;
const FORBIDDEN = 403;
const MISDIRECTED = 421;

/** Parses server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html). */
export class EventParser {
  #rest = "";
  #event = "message";
  #data = [];

  /** @param {string} text the next piece of the stream
   *  @returns {{event: string, data: string}[]} the events that it completes */
  push(text) {
    const lines = (this.#rest + text).split(/\r?\n/);
    this.#rest = lines.pop();
    const events = [];
    for (const line of lines) {
      if (line === "") {
        if (this.#data.length) events.push({ event: this.#event, data: this.#data.join("\n") });
        this.#event = "message";
        this.#data = [];
      } else if (line.startsWith("data:")) this.#data.push(line.slice(5).replace(/^ /, ""));
      else if (line.startsWith("event:")) this.#event = line.slice(6).trim();
    }
    return events;
  }
}

/** An answer of the API that is an error; the message says what to do. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Asks the API. @returns {Promise<Response>} @throws {Refused} */
export async function ask(path, token, options = {}) {
  const headers = { ...options.headers };
  if (token) headers.authorization = `Bearer ${token}`;
  const answer = await fetch(path, { ...options, headers, cache: "no-store" });
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, body.error ?? `${answer.status} ${answer.statusText}`);
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Reads a body, into one buffer where the browser can: a new buffer for each piece would stay
 *  until the next collection of garbage. */
function reads(body) {
  let buffer = new ArrayBuffer(BUFFER_BYTES);
  let reader = null;
  try {
    reader = body.getReader({ mode: "byob" });
  } catch {
    reader = body.getReader();
    return () => reader.read();
  }
  return async () => {
    const { done, value } = await reader.read(new Uint8Array(buffer));
    if (value) buffer = value.buffer;
    return { done, value };
  };
}

/** Whether the viewer has to do something before the coordinator answers. */
const isFinal = (error) =>
  error instanceof Refused && [UNAUTHORIZED, FORBIDDEN, MISDIRECTED].includes(error.status);

/** Delivers events until `stop`; reconnects by itself. */
export class Feed {
  #handlers;
  #stopped = false;
  #abort = new AbortController();
  #wake = () => {};

  /** @param {{token: () => string, event: (name: string, data: object, isPolled: boolean) => void,
   *           viewer: (rights: {may_retry: boolean}) => void, lost: (why: string) => void,
   *           refused: (error: Refused) => void}} handlers */
  constructor(handlers) {
    this.#handlers = handlers;
    this.#run();
  }

  stop() {
    this.#stopped = true;
    this.#abort.abort();
  }

  /** Ends a delay before the next attempt, for example because the network is back. */
  hurry() {
    this.#wake();
  }

  async #run() {
    let attempt = 0;
    while (!this.#stopped) {
      const seen = { events: 0, isOpen: false };
      try {
        await this.#stream(seen);
        this.#handlers.lost("the coordinator closed the stream");
      } catch (error) {
        if (this.#stopped) return;
        if (isFinal(error)) return this.#handlers.refused(error);
        const isAnswer = error instanceof Refused;
        this.#handlers.lost(isAnswer ? error.message : "no connection to the coordinator");
        seen.isOpen ||= isAnswer;
      }
      if (seen.events > 0) attempt = 0;
      else if (seen.isOpen && (await this.#poll())) attempt = 0;
      if (this.#stopped) return;
      const wait = RETRY_DELAYS[Math.min(attempt, RETRY_DELAYS.length - 1)];
      await Promise.race([sleep(wait), new Promise((resolve) => { this.#wake = resolve; })]);
      attempt += 1;
    }
  }

  async #stream(seen) {
    const abort = new AbortController();
    this.#abort = abort;
    const { token, event: handle, viewer } = this.#handlers;
    let timer = setTimeout(() => abort.abort(), STREAM_TIMEOUT);
    try {
      const rights = await ask("api/v1/viewer", token(), { signal: abort.signal });
      viewer(await rights.json());
      const answer = await ask("api/v1/events", token(), { signal: abort.signal });
      seen.isOpen = true;
      const read = reads(answer.body);
      const decoder = new TextDecoder();
      const parser = new EventParser();
      for (;;) {
        const { done, value } = await read();
        if (done || this.#stopped) return;
        clearTimeout(timer);
        timer = setTimeout(() => abort.abort(), STREAM_TIMEOUT);
        for (const { event, data } of parser.push(decoder.decode(value, { stream: true }))) {
          seen.events += 1;
          handle(event, JSON.parse(data), false);
        }
      }
    } finally {
      clearTimeout(timer);
      abort.abort();
    }
  }

  /** Asks for snapshots for a while. @returns {Promise<boolean>} whether one came */
  async #poll() {
    const until = performance.now() + POLL_TIME;
    let came = false;
    while (!this.#stopped && performance.now() < until) {
      try {
        const answer = await ask("api/v1/snapshot", this.#handlers.token());
        const message = await answer.json();
        if (this.#stopped) return came;
        this.#handlers.event("snapshot", message, true);
        came = true;
      } catch {
        return came;
      }
      await sleep(POLL_INTERVAL);
    }
    return came;
  }
}
