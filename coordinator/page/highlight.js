// The classes of a cause of failures or of a worker, by the filters of the address. The map draws
// the others pale.

import { filter, onFilter } from "./address.js";
import { causeOf, isOfCause, listClasses } from "./classes.js";

/** Time after which the classes are asked for again, in milliseconds. */
const REFRESH_INTERVAL = 5_000;

export class Highlight {
  #model;
  #token;
  #changed;
  /** What `rows` belongs to: `cause …`, `worker …` or "". */
  #of = "";
  #asked = 0;
  #isAsking = false;
  /** Rows of the list, or `null` without such a filter. */
  rows = null;

  /** @param {Model} model @param {() => string} token @param {() => void} changed */
  constructor(model, token, changed) {
    this.#model = model;
    this.#token = token;
    this.#changed = changed;
    onFilter(() => this.refresh());
  }

  /** Asks for the classes if a filter wants some and they are unknown or old. */
  async refresh() {
    if (!this.#model.loaded) return;
    const [cause, worker] = [filter("cause"), filter("worker")];
    const of = cause ? `cause ${cause}` : worker ? `worker ${worker}` : "";
    if (of !== this.#of) {
      this.#of = of;
      this.#asked = 0;
      this.rows = of ? new Set() : null;
      this.#changed();
    }
    if (!of || this.#isAsking || Date.now() - this.#asked < REFRESH_INTERVAL) return;
    this.#asked = Date.now();
    this.#isAsking = true;
    try {
      const { classes } = await this.#ask(cause, worker);
      if (of === this.#of) {
        const rows = classes.map(({ wnid }) => this.#model.rows.get(wnid));
        this.rows = new Set(rows.filter((row) => row !== undefined));
        this.#changed();
      }
    } catch {
      // The rows of the last answer stay; the next refresh asks again.
    } finally {
      this.#isAsking = false;
    }
    if (of !== this.#of) this.refresh();
  }

  #ask(cause, worker) {
    if (!cause) return listClasses(this.#token(), { worker });
    const group = this.#model.failures.groups.find((one) => causeOf(one) === cause);
    if (!group) return { classes: [] };
    return listClasses(this.#token(), { state: "f" }, ({ failure }) => isOfCause(group, failure),
      group.count);
  }
}
