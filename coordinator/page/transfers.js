// The transfers that run now, the longest-running first.

import { filter, onFilter, setFilters } from "./address.js";
import { listClasses } from "./classes.js";
import { byId, filterLink, make, recycled, setAttribute, setLink, setText } from "./dom.js";
import { count, percent, several, size } from "./format.js";

/** Rows that are shown at first, and those of one worker. */
const SHOWN = 10;
const OF_WORKER = 100;
const STEPS = { download: "downloading", local: "reading the local tar", publish: "publishing" };

export class Transfers {
  #model;
  #token;
  /** The transfers of the worker that the address names. */
  #listed = { worker: "", transfers: [] };

  /** @param {Model} model @param {() => string} token */
  constructor(model, token) {
    this.#model = model;
    this.#token = token;
    onFilter(() => model.loaded && (filter("worker") ? this.refresh() : this.show()));
    byId("transfers-all").addEventListener("click", () =>
      setFilters({ transfers: filter("transfers") ? "" : "all" }));
  }

  /** Asks for the transfers of a worker if the address names one. */
  async refresh() {
    const worker = filter("worker");
    if (!worker) return;
    try {
      const { classes } = await listClasses(this.#token(), { state: "r", worker }, () => true,
        OF_WORKER);
      this.#listed = { worker, transfers: classes.slice(0, OF_WORKER) };
      this.show();
    } catch {
      // The last answer stays; the next refresh asks again.
    }
  }

  /** Shows the table. */
  show() {
    const { total, first } = this.#model.transfers;
    const worker = filter("worker");
    const listed = this.#listed.worker === worker ? this.#listed.transfers : [];
    const isWhole = filter("transfers") === "all";
    const rows = worker ? listed : first.slice(0, isWhole ? first.length : SHOWN);
    setText(byId("transfers-count"), count(total));
    setText(byId("transfer-summary"), summary(total, rows.length, worker));
    byId("transfer-list").hidden = rows.length === 0;
    const button = byId("transfers-all");
    button.hidden = worker !== "" || first.length <= SHOWN;
    setText(button, isWhole ? `Show ${SHOWN}` : `Show ${count(first.length)}`);
    recycled(byId("transfer-table").tBodies[0], rows, (one) => `${one.wnid} ${one.worker}`,
      transferRow, updateTransfer);
  }
}

function summary(total, rows, worker) {
  if (worker) return `${several(rows, "class")} of ${worker}`;
  if (total === 0) return "No transfer is running.";
  return total > rows ? `The ${count(rows)} longest-running of ${several(total, "transfer")}` : "";
}

function transferRow() {
  // An element `progress` has a tree of its own in each browser, which costs more than the row.
  const bar = make("span", { class: "bar-of-one", role: "progressbar" }, make("span"));
  const cell = (label, attributes, ...children) =>
    make("td", { role: "cell", "data-label": label, ...attributes }, ...children);
  return make("tr", { role: "row" },
    make("th", { scope: "row", role: "rowheader" }, filterLink()),
    cell("Worker", {}, filterLink()), cell("Step"),
    cell("Progress", { class: "progress" }, bar, make("span")),
    cell("Received", { class: "n" }));
}

function updateTransfer(row, { wnid, worker, bytes, length, step, attempt, attempts }) {
  setLink(row.cells[0].firstChild, wnid, { find: wnid }, "classes");
  setLink(row.cells[1].firstChild, worker ?? "", { worker: worker ?? "", cause: "" }, "workers");
  const number = attempt ?? attempts ?? 1;
  const words = STEPS[step] ?? step ?? "";
  setText(row.cells[2], number > 1 ? `${words}, speculative attempt`.replace(/^, /, "") : words);
  const [bar, text] = row.cells[3].children;
  bar.hidden = !length;
  row.cells[3].classList.toggle("none", !length);
  if (length) {
    const part = Math.min(100, Math.floor((100 * (bytes ?? 0)) / length));
    bar.firstChild.style.width = `${part}%`;
    setAttribute(bar, "aria-valuenow", String(part));
    setAttribute(bar, "aria-label", `Progress of ${wnid}`);
  }
  setText(text, length ? percent(bytes ?? 0, length) : "");
  setText(row.cells[4], length ? `${size(bytes)} of ${size(length)}` : size(bytes));
}
