// A mock of the coordinator's HTTP port for tests of the page: version 1 of the API and an invented
// job. It is no coordinator: it downloads nothing, and its figures are made up.
//
//     node tests/browser/mock_coordinator.mjs [PORT [CLASSES [WORKERS]]]

import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { MockJob } from "./mock_job.mjs";

const PAGE = fileURLToPath(new URL("../../coordinator/page/", import.meta.url));
const HERE = fileURLToPath(new URL("./", import.meta.url));
const FAST_MOTION = "fast_motion.js";
const TYPES = {
  ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css",
  ".svg": "image/svg+xml",
};
const CSP = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; " +
  "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const LIMIT = 200;

export class MockCoordinator {
  /** Whether streams are answered: "open", "refused" (503) or "held" (nothing arrives). */
  streams = "open";
  /** The tokens with their roles; without any, no token is needed. */
  tokens = {};
  /** The requests that were answered, as `METHOD /path?query`. */
  requests = [];
  /** Folder of the address, as behind a reverse proxy, e.g. "/watch". */
  prefix = "";
  /** How many times faster the clocks of the page are. */
  speed = 1;
  #viewers = new Set();
  #server;
  #clock = null;

  constructor(job) {
    this.job = job;
    this.#server = http.createServer((request, response) => this.#answer(request, response));
  }

  /** @returns {Promise<string>} the base URL */
  async listen(port = 0) {
    await new Promise((resolve) => this.#server.listen(port, "127.0.0.1", resolve));
    return `http://127.0.0.1:${this.#server.address().port}${this.prefix}/`;
  }

  /** Settles classes and sends an update, `interval` milliseconds apart. */
  run(classes = 1, interval = 1_000) {
    clearInterval(this.#clock);
    this.#clock = setInterval(() => {
      this.job.step(classes);
      this.send();
    }, interval);
  }

  /** Stops the clock of `run`. */
  pause() {
    clearInterval(this.#clock);
  }

  /** Sends an update to all viewers. */
  send() {
    const text = `event: update\ndata: ${JSON.stringify(this.job.update())}\n\n`;
    for (const viewer of this.#viewers) viewer.write(text);
  }

  /** @returns {number} open streams */
  viewers() {
    return this.#viewers.size;
  }

  /** Breaks all streams. */
  cut() {
    for (const viewer of this.#viewers) viewer.destroy();
    this.#viewers.clear();
  }

  async close() {
    this.pause();
    this.cut();
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #answer(request, response) {
    const url = new URL(request.url, "http://mock");
    this.requests.push(`${request.method} ${url.pathname}${url.search}`);
    if (!url.pathname.startsWith(`${this.prefix}/`)) return error(response, 404, "no such path");
    const name = url.pathname.slice(this.prefix.length + 1);
    if (!name.startsWith("api/")) return this.#file(response, name);
    const role = this.#role(request);
    if (!role) return error(response, 401, "send the token of a viewer or an admin");
    return this.#api(name.slice("api/v1/".length), url.searchParams, request, response, role);
  }

  #file(response, name) {
    const isFast = this.speed > 1;
    const folder = isFast && name === FAST_MOTION ? HERE : PAGE;
    const place = path.join(folder, name || "index.html");
    const type = TYPES[path.extname(place)];
    if (!place.startsWith(folder) || !type || !fs.existsSync(place)) {
      return error(response, 404, "no such path");
    }
    response.writeHead(200, { "content-type": type, "content-security-policy": CSP,
      "x-content-type-options": "nosniff" });
    const content = fs.readFileSync(place);
    if (!isFast || name !== "") return response.end(content);
    const script = `<script src="${FAST_MOTION}" data-speed="${this.speed}"></script>`;
    return response.end(content.toString().replace("<script", `${script}\n<script`));
  }

  #role({ headers }) {
    if (Object.keys(this.tokens).length === 0) return "admin";
    return this.tokens[headers.authorization?.replace("Bearer ", "")];
  }

  async #api(name, query, request, response, role) {
    const [list, wnid] = name.split("/");
    if (list === "events") return this.#stream(request, response);
    if (list === "viewer") return json(response, { may_retry: role === "admin" });
    if (list === "snapshot") return json(response, this.job.snapshot());
    if (list === "workers") return json(response, this.#workers(query));
    if (list === "classes" && !wnid) return json(response, this.#classes(query));
    if (list === "classes") {
      const found = this.job.classOf(wnid);
      return found ? json(response, found) : error(response, 404, `${wnid} is not in the list`);
    }
    if (list !== "retry") return error(response, 404, "no such path");
    if (role !== "admin") return error(response, 403, "a retry needs an admin's token");
    let body = "";
    for await (const piece of request) body += piece;
    return json(response, { retried: this.job.retry(JSON.parse(body).wnids), invalid_rows: 0 });
  }

  #stream(request, response) {
    if (this.streams === "refused") return error(response, 503, "64 viewers are connected");
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
    response.flushHeaders();
    if (this.streams === "held") return undefined;
    response.write(`event: snapshot\ndata: ${JSON.stringify(this.job.snapshot())}\n\n`);
    this.#viewers.add(response);
    request.on("close", () => this.#viewers.delete(response));
    return undefined;
  }

  #workers(query) {
    const states = query.get("state")?.split(",");
    const found = this.job.ranked(query.get("sort") ?? "trouble").filter(({ name, state }) =>
      (!states || states.includes(state)) && name.includes(query.get("q") ?? ""));
    const after = Number(query.get("after") ?? 0);
    const limit = Number(query.get("limit") ?? LIMIT);
    return { total: found.length, workers: found.slice(after, after + limit) };
  }

  #classes(query) {
    const [state, worker, after] = ["state", "worker", "after"].map((name) => query.get(name));
    const found = this.job.wnids.filter((wnid) => wnid !== "").map((wnid) => this.job.classOf(wnid))
      .filter((one) => (!state || one.state === state) && (!worker || one.worker === worker));
    const rest = found.filter(({ wnid }) => !after || wnid > after);
    return { total: found.length, classes: rest.slice(0, Number(query.get("limit") ?? LIMIT)) };
  }
}

function json(response, value, status = 200) {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify(value));
}

const error = (response, status, text) => json(response, { error: text }, status);

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [port, classes, workers] = process.argv.slice(2).map(Number);
  const mock = new MockCoordinator(new MockJob({ classes, workers }));
  process.stdout.write(`a mock with an invented job: ${await mock.listen(port ?? 0)}\n`);
  mock.run();
}
