// All classes at once: one small cell a class, on a canvas, in the order of the list.

import { filter, onFilter, setFilters } from "./address.js";
import { byId, filterLink, keyed, make, setLink, setPressed, setText } from "./dom.js";
import { ask } from "./feed.js";
import { count, size } from "./format.js";
import { STATES, shown } from "./model.js";

const NAMES = new Map(STATES.map((state) => [state.letter, state]));
/** Height of the map, and the sides of its cells, in pixels. */
const HEIGHT = 400;
const MAX_CELL = 24;
const MIN_CELL = 3;
/** Sides of cells that have room for a mark of failures. */
const MIN_CROSS_SIDE = 6;
const PALE_ALPHA = 0.14;
/** Delay before the coordinator is asked about the class, in milliseconds. */
const HOVER_DELAY = 150;

export class ClassMap {
  #canvas = byId("map");
  #cursor = byId("map-cursor");
  #model;
  #token;
  #highlight;
  #cell = 8;
  #columns = 1;
  #row = -1;
  #request = 0;
  #colours = null;

  /** @param {Model} model @param {() => string} token
   *  @param {() => Set<number>?} highlight rows to draw in full colour; `null` for all */
  constructor(model, token, highlight) {
    this.#model = model;
    this.#token = token;
    this.#highlight = highlight;
    const canvas = this.#canvas;
    canvas.addEventListener("pointermove", (event) => this.#select(this.#at(event)));
    canvas.addEventListener("click", (event) => this.#pin(this.#at(event)));
    canvas.addEventListener("pointerleave", () => this.#select(this.#pinned()));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    byId("class-search").addEventListener("change", ({ target }) =>
      setFilters({ find: target.value.trim().toLowerCase() }));
    byId("worker-of-class").append(filterLink());
    onFilter(() => model.loaded && this.filter());
    new ResizeObserver(() => this.draw()).observe(canvas.parentElement);
  }

  /** Applies the filters of the address. */
  filter() {
    this.legend();
    this.#chips();
    const wanted = filter("find");
    const search = byId("class-search");
    if (document.activeElement !== search) search.value = wanted;
    this.draw();
    const row = this.#pinned();
    if (row < 0) this.#tell("", "");
    if (row >= 0 || !wanted) this.#select(row);
    else {
      this.#select(-1);
      this.#tell(`${wanted} is not in the list of this job.`, "");
    }
  }

  /** The legend: one button a state, with its number of classes. */
  legend() {
    const chosen = this.#chosen();
    keyed(byId("class-filter"), STATES, ({ letter }) => letter,
      ({ letter, name }) => make("button", { type: "button",
        onclick: () => this.#toggle(letter) }, make("i", { class: name, "aria-hidden": "true" }),
      make("span"), make("b")),
      (button, { letter, label }) => {
        setPressed(button, chosen?.has(letter) ?? false);
        setText(button.children[1], label);
        setText(button.children[2], count(this.#model.tally[letter] ?? 0));
      });
  }

  /** Filters of other parts that hold here too, each with a button that ends it. */
  #chips() {
    const chips = [["cause", "Failures of"], ["worker", "Classes of"]]
      .map(([name, label]) => ({ name, label, value: filter(name) }))
      .filter(({ value }) => value !== "").slice(0, 1);
    keyed(byId("class-chips"), chips, ({ name }) => name,
      ({ name }) => make("button", { type: "button", class: "chip",
        onclick: () => setFilters({ [name]: "" }) }, make("span"), " ×"),
      (button, { label, value }) => {
        setText(button.firstChild, `${label} ${value}`);
        button.setAttribute("aria-label", `${label} ${value}: end this filter`);
      });
  }

  /** The states that are drawn in colour; the others are pale. */
  #chosen() {
    const letters = filter("states");
    return letters ? new Set(letters.split(",")) : null;
  }

  #toggle(letter) {
    const chosen = this.#chosen() ?? new Set();
    if (!chosen.delete(letter)) chosen.add(letter);
    setFilters({ states: [...chosen].join(",") });
  }

  /** Draws all cells, with the size and the colours of now. */
  draw() {
    const canvas = this.#canvas;
    const total = this.#model.states.length;
    const width = canvas.parentElement.clientWidth;
    if (!total || !width) return;
    const fit = Math.floor(Math.sqrt((width * HEIGHT) / total));
    this.#cell = Math.min(MAX_CELL, Math.max(MIN_CELL, fit));
    this.#columns = Math.max(1, Math.floor(width / this.#cell));
    const height = Math.ceil(total / this.#columns) * this.#cell;
    const ratio = devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.height = `${height}px`;
    canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
    const style = getComputedStyle(document.documentElement);
    const value = (name) => style.getPropertyValue(`--${name}`).trim();
    this.#colours = new Map(STATES.map(({ letter, name }) => [letter, value(name)]));
    this.#colours.set("cross", value("panel"));
    this.paint(this.#model.states.keys());
    this.#place();
  }

  /** Draws the cells of the rows. */
  paint(rows) {
    if (!this.#colours) return;
    const context = this.#canvas.getContext("2d");
    const chosen = this.#chosen();
    const highlight = this.#highlight();
    const cell = this.#cell;
    const side = cell - (cell > 5 ? 1 : 0.5);
    for (const row of rows) {
      const letter = shown(this.#model.states[row]);
      const x = (row % this.#columns) * cell;
      const y = Math.floor(row / this.#columns) * cell;
      const isPale = (chosen && !chosen.has(letter)) || (highlight && !highlight.has(row));
      context.clearRect(x, y, cell, cell);
      context.globalAlpha = isPale ? PALE_ALPHA : 1;
      context.fillStyle = this.#colours.get(letter);
      context.fillRect(x, y, side, side);
      if (letter === "f" && side >= MIN_CROSS_SIDE) {
        cross(context, x, y, side, this.#colours.get("cross"));
      }
    }
    context.globalAlpha = 1;
  }

  /** The row of the class that the address names; -1 without one. */
  #pinned() {
    return this.#model.rows.get(filter("find")) ?? -1;
  }

  #pin(row) {
    if (row < 0) return;
    setFilters({ find: this.#model.wnids[row] });
    this.#select(row);
  }

  /** The row below the pointer; -1 for none. */
  #at(event) {
    const column = Math.floor(event.offsetX / this.#cell);
    const row = Math.floor(event.offsetY / this.#cell) * this.#columns + column;
    return column < this.#columns && row < this.#model.states.length ? row : -1;
  }

  #key(event) {
    const steps = {
      ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.#columns, ArrowDown: this.#columns,
      Home: -Infinity, End: Infinity,
    };
    if (event.key === "Escape") setFilters({ find: "" });
    else if (event.key === "Enter" || event.key === " ") this.#pin(this.#row);
    else if (event.key === "n" || event.key === "p") {
      this.#select(this.#similar(event.key === "n" ? 1 : -1));
    } else if (event.key in steps && !event.altKey && !event.ctrlKey && !event.metaKey) {
      const last = this.#model.states.length - 1;
      const start = this.#row < 0 ? (event.key === "End" ? last : 0) : this.#row;
      const next = this.#row < 0 ? start : start + steps[event.key];
      this.#select(Math.min(last, Math.max(0, next)));
    } else return;
    event.preventDefault();
  }

  /** The next class in full colour, or the next failed one where all are. */
  #similar(step) {
    const { states } = this.#model;
    const highlight = this.#highlight();
    const chosen = this.#chosen() ?? (highlight ? null : new Set("f"));
    let row = this.#row;
    for (let tries = 0; tries < states.length; tries += 1) {
      row = (row + step + states.length) % states.length;
      const isChosen = !chosen || chosen.has(shown(states[row]));
      if (isChosen && (!highlight || highlight.has(row))) return row;
    }
    return this.#row;
  }

  /** Puts the frame around the cell of the selected row. */
  #place() {
    const style = this.#cursor.style;
    this.#cursor.hidden = this.#row < 0;
    if (this.#row < 0) return;
    const x = (this.#row % this.#columns) * this.#cell;
    const y = Math.floor(this.#row / this.#columns) * this.#cell;
    style.width = `${this.#cell + 3}px`;
    style.height = `${this.#cell + 3}px`;
    style.transform = `translate(${x - 2}px, ${y - 2}px)`;
  }

  /** Tells about the class of a row; -1: about none. */
  async #select(row) {
    if (row === this.#row) return;
    this.#row = row;
    this.#place();
    this.#request += 1;
    const request = this.#request;
    this.#tell("", "");
    if (row < 0) return;
    const wnid = this.#model.wnids[row];
    const state = NAMES.get(shown(this.#model.states[row])).label;
    if (!wnid) {
      this.#tell(`Row ${count(row + 1)} of the list has no class id; it counts as failed`, "");
      return;
    }
    this.#tell(`${wnid}: ${state}`, "");
    await new Promise((resolve) => setTimeout(resolve, HOVER_DELAY));
    if (request !== this.#request) return;
    try {
      const told = await (await ask(`api/v1/classes/${wnid}`, this.#token())).json();
      if (request === this.#request) this.#tell(`${wnid}: ${inWords(told)}`, told.worker ?? "");
    } catch {
      // The state is shown; what the coordinator knows beyond it is not.
    }
  }

  #tell(text, worker) {
    const detail = byId("class-detail");
    detail.classList.toggle("none", text === "");
    setText(detail, text || "Point at a cell, or focus the map and use the keys.");
    setLink(byId("worker-of-class").firstChild, worker, { worker, cause: "" }, "workers");
  }

  /** Tells again about the selected class, for example because its state has changed. */
  again(rows) {
    const row = this.#row;
    if (row < 0 || !rows.has(row)) return;
    this.#row = -1;
    this.#select(row);
  }
}

function cross(context, x, y, side, colour) {
  context.strokeStyle = colour;
  context.lineWidth = Math.max(1, side / 9);
  const inset = side / 4;
  context.beginPath();
  context.moveTo(x + inset, y + inset);
  context.lineTo(x + side - inset, y + side - inset);
  context.moveTo(x + side - inset, y + inset);
  context.lineTo(x + inset, y + side - inset);
  context.stroke();
}

/** What is known of a class. */
function inWords({ state, bytes, length, attempts, failure }) {
  const parts = [NAMES.get(shown(state))?.label ?? state];
  if (bytes) parts.push(length ? `${size(bytes)} of ${size(length)}` : size(bytes));
  if (attempts > 1) parts.push(`${count(attempts)} attempts`);
  if (failure) parts.push(`${failure.kind}: ${failure.reason}`);
  return parts.join(", ");
}
