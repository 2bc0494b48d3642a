// A job of the real programs to draw: eight workers, 1,200 classes of which some fail, an origin
// that refuses requests for a while, and workers that are killed, stopped and drained.

import { waitFor } from "./browser.mjs";
import { Fleet, wnids } from "./fleet.mjs";
import { checkAge, shell } from "./programs.mjs";

const NAMES = Array.from({ length: 8 }, (_, place) => `node0${place + 1}`);
const SLOTS = 6;
const CLASSES = 1_200;
/** For how long a part of the job may take, in milliseconds. */
const PART = 600_000;

export class RealJob {
  #fleet;
  /** What happens when a part of the classes is settled. */
  #events;

  static async start() {
    checkAge();
    const classes = wnids(CLASSES);
    const job = new RealJob();
    const fleet = new Fleet({ classes, rate: 70_000,
      images: (wnid) => 4 + 2 * Number(wnid.at(-1)) });
    job.#fleet = fleet;
    fleet.origin.missing = new Set(classes.filter((_, row) => row % 149 === 7));
    fleet.origin.pages = new Set(classes.filter((_, row) => row % 400 === 11));
    job.#events = [
      [0.2, () => { fleet.origin.refusals = 30; }],
      [0.5, () => fleet.workers.get("node03").signal("SIGKILL")],
      [0.52, () => shell(`coordinator drain --target "${fleet.target}" node06`)],
      [0.59, () => fleet.workers.get("node05").signal("SIGSTOP")],
      [0.64, () => fleet.workers.get("node05").signal("SIGCONT")],
      [0.64, () => fleet.origin.release()],
    ];
    await fleet.start(NAMES, SLOTS);
    return job;
  }

  get url() {
    return this.#fleet.url;
  }

  /** Waits until a part of the classes, between 0 and 1, is settled. */
  async until(part) {
    await waitFor(`${100 * part} % of the job`, async () => {
      const { success, skipped, failed, total } = await this.#fleet.status();
      const settled = (success + skipped + failed) / total;
      while (this.#events.length && this.#events[0][0] <= Math.min(settled, part)) {
        await this.#events.shift()[1]();
      }
      return settled;
    }, (settled) => settled >= part, PART);
  }

  close() {
    return this.#fleet.close();
  }
}
