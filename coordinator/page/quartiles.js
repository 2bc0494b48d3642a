// The rates of the active workers as a box plot: lowest, quartiles, highest.

import { byId, setAttribute, setText } from "./dom.js";
import { count, rate } from "./format.js";

/** Width of the drawing in its own units. */
const WIDTH = 1000;

/** Places of the five figures between 0 and the highest, in units of the drawing.
 *  @param {number[]} rates lowest, first quartile, median, third quartile, highest */
export function places(rates) {
  const highest = Math.max(1, rates[4]);
  return rates.map((value) => Math.round((WIDTH * value) / highest));
}

/** Shows the box plot; hides it without rates. */
export function showQuartiles(rates, workers) {
  const isKnown = rates?.length === 5 && rates.every((value) => value != null);
  byId("quartiles").hidden = !isKnown;
  if (!isKnown) return;
  const [low, first, median, third, high] = places(rates);
  const at = (id, values) => {
    for (const [name, value] of Object.entries(values)) {
      setAttribute(byId(id), name, String(value));
    }
  };
  at("box-line", { x1: low, x2: high });
  at("box-half", { x: first, width: Math.max(2, third - first) });
  at("box-median", { x1: median, x2: median });
  setText(byId("quartiles-text"), `Rates of the ${count(workers)} active workers: ` +
    `${rate(rates[0])} to ${rate(rates[4])}, half of them between ${rate(rates[1])} and ` +
    `${rate(rates[3])}, median ${rate(rates[2])}`);
}
