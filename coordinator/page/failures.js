// Failures grouped by cause, with the command that retries them.

import { filter, onFilter, setFilters } from "./address.js";
import { causeOf, isOfCause, listClasses } from "./classes.js";
import { announce, byId, filterLink, goTo, keyed, make, setLink, setText } from "./dom.js";
import { ask } from "./feed.js";
import { clock, count, several } from "./format.js";

/** Classes that are listed of a group, and those that a command names. */
const LISTED = 100;
const NAMED = 50;

export class Failures {
  #model;
  #token;
  /** The classes of the group that is open, and for which group and count they were asked. */
  #open = { cause: "", count: -1, classes: [], isWhole: false };

  /** @param {Model} model @param {() => string} token */
  constructor(model, token) {
    this.#model = model;
    this.#token = token;
    onFilter(() => model.loaded && this.show());
  }

  /** Shows the groups; the one that the address names is open. */
  show() {
    const { groups, invalid_rows: rows, total } = this.#model.failures;
    const box = byId("failure-groups");
    setText(byId("failures-count"), total > 0 ? count(total) : "");
    byId("no-failures").hidden = groups.length > 0 || rows > 0;
    keyed(box, groups, causeOf, (group) => this.#create(group),
      (element, group) => this.#update(element, group));
    byId("invalid-rows").hidden = !rows;
    setText(byId("invalid-rows"), `${several(rows ?? 0, "row")} of the list without a class id ` +
      "counted as failed. Correct the CSV file and start the job again.");
    this.#list();
  }

  #create(group) {
    const cause = causeOf(group);
    const copy = make("button", { type: "button" }, "Copy");
    const retry = make("button", { type: "button", class: "retry" }, "Retry …");
    const map = make("button", { type: "button" }, "Show in the map");
    const heads = ["Class", "Worker", "Attempts", "When"]
      .map((text) => make("th", { scope: "col", role: "columnheader" }, text));
    const table = make("table", { role: "table", class: "cards" },
      make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...heads)),
      make("tbody", { role: "rowgroup" }));
    const summary = make("summary", {}, make("b"), " ", make("span"));
    const worker = filterLink();
    const element = make("details", { class: "group" }, summary,
      make("p", { class: "of-worker" }, "All on ", worker),
      make("p", { class: "hint" }), make("div", { class: "command" }, make("code"), copy),
      make("div", { class: "buttons" }, retry, map), table, make("p", { class: "hint rest" }));
    summary.addEventListener("click", (event) => {
      event.preventDefault();
      setFilters({ cause: element.open ? "" : cause, worker: "" });
    });
    copy.addEventListener("click", () => copyText(element.querySelector("code")));
    retry.addEventListener("click", () => this.#retry(element.group));
    map.addEventListener("click", () => goTo("classes"));
    return element;
  }

  #update(element, group) {
    element.group = group;
    element.open = filter("cause") === causeOf(group);
    const [number, text] = element.querySelectorAll("summary > *");
    setText(number, count(group.count));
    setText(text, causeOf(group));
    element.children[1].hidden = !group.worker;
    setLink(element.querySelector(".of-worker a"), group.worker ?? "",
      { worker: group.worker ?? "", cause: "" }, "workers");
    const names = this.#names(group);
    const note = [];
    if (!group.retryable) note.push("The same request is expected to fail again.");
    if (!names) note.push("The command retries all failed classes.");
    setText(element.children[2], note.join(" "));
    element.children[2].hidden = note.length === 0;
    const { command } = this.#model;
    setText(element.querySelector("code"), names ? `${command} ${names.join(" ")}` : command);
    element.querySelector(".command").hidden = !command;
    element.querySelector(".retry").hidden = !this.#model.may_retry;
    if (element.open) this.#showClasses(element, group);
  }

  /** The ids of all classes of a group, or `null` if they are unknown or too many. */
  #names(group) {
    if (group.classes.length === group.count) return group.classes;
    const { cause, classes, isWhole } = this.#open;
    const isKnown = cause === causeOf(group) && isWhole && classes.length === group.count;
    return isKnown && group.count <= NAMED ? classes.map(({ wnid }) => wnid) : null;
  }

  #showClasses(element, group) {
    const isListed = this.#open.cause === causeOf(group);
    const listed = isListed ? this.#open.classes.slice(0, LISTED) : [];
    const classes = listed.length ? listed : group.classes.map((wnid) => ({ wnid }));
    keyed(element.querySelector("tbody"), classes, ({ wnid }) => wnid, classRow,
      (row, told) => updateClass(row, told, this.#model.time()));
    element.classList.toggle("no-attempts", classes.every(({ attempts }) => attempts == null));
    const rest = group.count - classes.length;
    setText(element.querySelector(".rest"), rest > 0 ? `and ${several(rest, "other class")}` : "");
  }

  /** Asks for the classes of the group that is open, again after its count has changed. */
  async #list() {
    const cause = filter("cause");
    const group = this.#model.failures.groups.find((one) => causeOf(one) === cause);
    if (!group || (this.#open.cause === cause && this.#open.count === group.count)) return;
    const before = this.#open.cause === cause ? this.#open.classes : [];
    this.#open = { cause, count: group.count, classes: before, isWhole: false };
    const wanted = this.#open;
    try {
      const found = await listClasses(this.#token(), { state: "f" },
        ({ failure }) => isOfCause(group, failure), group.count);
      if (this.#open !== wanted) return;
      wanted.classes = found.classes;
      wanted.isWhole = found.classes.length === group.count;
      this.show();
    } catch {
      if (this.#open === wanted) this.#open = { ...wanted, count: -1 };
    }
  }

  async #retry(group) {
    const names = this.#names(group);
    const which = names ? `the ${several(names.length, "class")} of this cause`
      : `all ${several(this.#model.failures.total, "failed class")}`;
    setText(byId("confirm-text"), `The coordinator leases ${which} again. Bytes that were ` +
      "received before are used where possible.");
    setText(byId("confirm-cause"), causeOf(group));
    const dialog = byId("confirm");
    dialog.returnValue = "cancel";
    dialog.showModal();
    await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
    if (dialog.returnValue !== "retry") return;
    try {
      const answer = await ask("api/v1/retry", this.#token(), {
        method: "POST", headers: { "content-type": "application/json" },
        body: JSON.stringify({ wnids: names ?? [] }),
      });
      const { retried } = await answer.json();
      announce(`${several(retried, "class")} will be tried again.`);
    } catch (error) {
      announce(`Not retried: ${error.message}`, true);
    }
  }
}

function classRow() {
  const cells = [["td", "Worker"], ["td", "Attempts"], ["td", "When"]]
    .map(([tag, label]) => make(tag, { role: "cell", "data-label": label }));
  cells[0].append(filterLink());
  return make("tr", { role: "row" },
    make("th", { scope: "row", role: "rowheader" }, filterLink()), ...cells);
}

function updateClass(row, { wnid, worker, attempts, at_ms: at }, now) {
  setLink(row.cells[0].firstChild, wnid, { find: wnid }, "classes");
  setLink(row.cells[1].firstChild, worker ?? "", { worker: worker ?? "", cause: "" }, "workers");
  setText(row.cells[2], count(attempts));
  setText(row.cells[3], at == null ? "" : clock(at, now));
  for (const cell of row.cells) cell.classList.toggle("none", cell.textContent === "");
}

async function copyText(element) {
  try {
    await navigator.clipboard.writeText(element.textContent);
    announce("The command is copied.");
  } catch {
    getSelection().selectAllChildren(element);
    announce("The command is selected: copy it with the keyboard.");
  }
}
