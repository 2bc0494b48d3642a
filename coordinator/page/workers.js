// The workers: the worst ten, quartiles of the rates, and the whole list by page.

import { filter, filters, onFilter, setFilters } from "./address.js";
import { byId, filterLink, keyed, make, recycled, setLink, setPressed, setText } from "./dom.js";
import { ask } from "./feed.js";
import { clock, count, duration, rate, several, size } from "./format.js";
import { showQuartiles } from "./quartiles.js";

/** Rows of a page of the list. */
const PAGE_SIZE = 200;
const TROUBLE = ["lost", "silent", "quarantined", "draining"];
const STATES = [...TROUBLE, "active"];
/** States in which a worker delivers nothing. */
const BAD = ["lost", "silent", "quarantined"];
/** Filters that need the list of the API. */
const LIST_FILTERS = ["workers", "wfind", "sort", "from", "worker"];
/** Delay after a key in the search, in milliseconds. */
const SEARCH_DELAY = 250;

export class Workers {
  #model;
  #token;
  /** An answer of the API, or `null`: the worst ten, which come with each update. */
  #listed = null;
  #asked = "";
  #isAsking = false;
  #typing = 0;

  /** @param {Model} model @param {() => string} token */
  constructor(model, token) {
    this.#model = model;
    this.#token = token;
    onFilter(() => model.loaded && (this.#query() ? this.refresh() : this.show()));
    const search = byId("worker-search");
    const find = () => {
      clearTimeout(this.#typing);
      setFilters({ wfind: search.value.trim(), from: "", worker: "" }, true);
    };
    search.addEventListener("input", () => {
      clearTimeout(this.#typing);
      this.#typing = setTimeout(find, SEARCH_DELAY);
    });
    search.addEventListener("change", find);
    byId("worker-sort").addEventListener("change", ({ target }) =>
      setFilters({ sort: target.value, from: "" }));
    const turn = (step) => () => {
      const from = Math.max(0, Number(filter("from")) + step);
      setFilters({ from: from ? String(from) : "", workers: filter("workers") || "all" });
    };
    byId("workers-before").addEventListener("click", turn(-PAGE_SIZE));
    byId("workers-after").addEventListener("click", turn(PAGE_SIZE));
  }

  /** Asks for the list if the address has a filter that needs it. */
  async refresh() {
    const query = this.#query();
    if (query === "" || this.#isAsking) return;
    this.#isAsking = true;
    try {
      const answer = await (await ask(`api/v1/workers?${query}`, this.#token())).json();
      this.#listed = { ...answer, query };
      this.#asked = query;
    } catch (error) {
      if (this.#asked !== query) this.#listed = { total: 0, workers: [], query, error };
    } finally {
      this.#isAsking = false;
    }
    if (query !== this.#query()) this.refresh();
    else this.show();
  }

  #query() {
    const all = filters();
    if (!LIST_FILTERS.some((name) => all.get(name))) return "";
    const query = new URLSearchParams({ limit: PAGE_SIZE, sort: all.get("sort") || "trouble" });
    const kind = all.get("workers") ?? "";
    if (kind === "trouble") query.set("state", TROUBLE.join(","));
    else if (STATES.includes(kind)) query.set("state", kind);
    if (all.get("worker")) query.set("sort", "name");
    const wanted = all.get("worker") || all.get("wfind");
    if (wanted) query.set("q", wanted);
    if (Number(all.get("from")) > 0) query.set("after", all.get("from"));
    return query.toString();
  }

  /** Shows the summary and the list. */
  show() {
    const { workers } = this.#model;
    setText(byId("workers-count"), count(workers.total));
    const isSmall = workers.total <= workers.first.length;
    byId("worker-tools").hidden = isSmall && this.#query() === "";
    byId("no-workers").hidden = workers.total > 0;
    setText(byId("no-workers"), this.#model.state.phase === "done"
      ? "All workers have left." : "No worker has joined yet.");
    byId("worker-list").hidden = workers.total === 0;
    this.#showFilters(workers);
    const { active = 0 } = workers.states;
    showQuartiles(active > workers.first.length ? workers.bytes_per_second : null, active);
    this.#showList(workers);
  }

  #showFilters({ total, states }) {
    const number = (names) => names.reduce((sum, name) => sum + (states[name] ?? 0), 0);
    const present = STATES.filter((name) => states[name] > 0 || filter("workers") === name);
    const lists = [
      ["", "Worst ten", null], ["all", "All", total], ["trouble", "In trouble", number(TROUBLE)],
      ...present.map((name) => [name, name[0].toUpperCase() + name.slice(1), number([name])]),
    ];
    const chosen = filter("workers");
    keyed(byId("worker-filter"), lists, ([kind]) => `list ${kind}`,
      ([kind]) => make("button", { type: "button", onclick: () => choose(kind) },
        make("span"), make("b")),
      (button, [kind, label, all]) => {
        setPressed(button, kind === chosen && !filter("worker"));
        setText(button.firstChild, label);
        setText(button.lastChild, count(all));
      });
    const search = byId("worker-search");
    if (document.activeElement !== search) search.value = filter("wfind");
    byId("worker-sort").value = filter("sort");
    const worker = filter("worker");
    const end = () => setFilters({ worker: "" });
    keyed(byId("worker-chips"), worker ? [worker] : [], (name) => name,
      (name) => make("button", { type: "button", class: "chip", onclick: end,
        "aria-label": `Worker ${name}: end this filter` }, `Worker ${name} ×`), () => {});
  }

  #showList(workers) {
    const query = this.#query();
    const isFresh = this.#listed?.query === query;
    if (query !== "" && !isFresh) {
      return setText(byId("worker-rest"), "asking the coordinator …");
    }
    const list = query === "" ? { total: workers.total, workers: workers.first } : this.#listed;
    const name = filter("worker");
    const rows = name ? list.workers.filter((one) => one.name === name) : list.workers;
    recycled(byId("worker-table").tBodies[0], rows, (one) => one.name, workerRow,
      (row, worker) => updateWorker(row, worker, this.#model.time()));
    byId("worker-table").classList.toggle("no-host", rows.every(isNamedAfterHost));
    const from = Number(filter("from")) || 0;
    const after = list.total - from - rows.length;
    byId("workers-before").hidden = from === 0;
    byId("workers-after").hidden = query === "" || name !== "" || after <= 0;
    setText(byId("worker-rest"), restInWords(list, rows, from, name, query === ""));
    return undefined;
  }
}

/** Chooses a list; the worst ten have no search and no order. */
function choose(kind) {
  const changes = { workers: kind, from: "", worker: "" };
  setFilters(kind ? changes : { ...changes, wfind: "", sort: "" });
}

function restInWords({ total, error }, rows, from, name, isWorst) {
  if (error) return `The list could not be read: ${error.message}`;
  if (name) return rows.length ? "" : `No worker ${name} is known to this coordinator.`;
  if (rows.length === 0) return "No worker matches.";
  if (isWorst) return total > rows.length ? `${several(total - rows.length, "other worker")}` : "";
  const last = count(from + rows.length);
  return total > rows.length ? `${count(from + 1)} to ${last} of ${count(total)}` : "";
}

const LABELS = [
  "State", "Rate", "Slots", "Success", "Skipped", "Failed", "Disk free", "Host", "Version",
];
const NUMERIC = ["Rate", "Slots", "Success", "Skipped", "Failed", "Disk free"];

function workerRow() {
  const cells = LABELS.map((label) => make("td", {
    role: "cell", "data-label": label, class: NUMERIC.includes(label) ? "n" : null,
  }));
  cells[0].append(make("b"), " ", make("span"));
  return make("tr", { role: "row" },
    make("th", { scope: "row", role: "rowheader" }, filterLink()), ...cells);
}

function updateWorker(row, worker, now) {
  const isActive = worker.state === "active";
  setLink(row.cells[0].firstChild, worker.name, { worker: worker.name, cause: "" }, "workers");
  const [state, more] = row.cells[1].children;
  setText(state, worker.state);
  state.className = BAD.includes(worker.state) ? "bad" : isActive ? "" : "attention";
  const since = worker.since_ms == null ? ""
    : `since ${clock(worker.since_ms, now)} (${duration(now - worker.since_ms)})`;
  setText(more, isActive ? waits(worker) : since);
  const slots = worker.slots == null ? "" : `${count(worker.leased)} of ${count(worker.slots)}`;
  const texts = [
    worker.state === "lost" ? "" : rate(worker.bytes_per_second), slots, count(worker.success),
    count(worker.skipped), count(worker.failed), size(worker.disk_free), worker.host ?? "",
    worker.build ?? "",
  ];
  texts.forEach((text, place) => setText(row.cells[place + 2], text));
}

/** Whether the name tells the host already, or the host is unknown. */
export const isNamedAfterHost = ({ name, host }) => !host || host === name;

const waits = ({ waits_for: reason }) => (reason ? `waits: ${reason}` : "");
