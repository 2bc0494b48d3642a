// Throughput and connections over time, drawn by uPlot, with marks where the limit of connections
// has changed.

import { filter, onFilter, setFilters } from "./address.js";
import { byId, keyed, make, setAttribute, setPressed, setText } from "./dom.js";
import { clock, count, duration, rate, several, tick } from "./format.js";

/* global uPlot */

const RANGES = [
  ["", "Whole run", Infinity], ["1h", "Last hour", 3_600_000], ["10m", "Last 10 min", 600_000],
];
/** Changes of the limit that are always listed, and those in the list that opens. */
const LISTED = 3;
const LISTED_OPEN = 100;
/** Pixels between two times of the axis, which have up to eight digits and signs, and to the right
 *  of the last one. */
const TIME_GAP = 78;
const TIME_HALF = 28;
/** Pixels between two numbers of marks, and between the pointer and its mark. */
const NUMBER_GAP = 18;
const NEAR_PIXELS = 8;

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class Charts {
  #model;
  #charts = null;
  #points = [];
  /** What the charts show: the range, the time of the last point, and the marks. */
  #drawn = {};

  constructor(model) {
    this.#model = model;
    onFilter(() => model.loaded && this.show());
    byId("marks-more").addEventListener("toggle", () => this.#listMarks());
    new ResizeObserver(() => this.#resize()).observe(byId("chart-rate"));
  }

  /** Shows the history of the model. */
  show() {
    const model = this.#model;
    const chosen = filter("range");
    keyed(byId("range"), RANGES, ([name]) => `range ${name}`,
      ([name, label]) => make("button", { type: "button", onclick: () =>
        setFilters({ range: name }) }, label),
      (button, [name]) => setPressed(button, name === chosen));
    const last = model.points.at(-1)?.[0] ?? 0;
    const [, , span] = RANGES.find(([name]) => name === chosen) ?? RANGES[0];
    this.#points = model.points.filter(([at]) => at >= last - span);
    byId("charts").hidden = this.#points.length < 2;
    byId("no-history").hidden = this.#points.length >= 2;
    this.#listMarks();
    if (this.#points.length < 2) return undefined;
    if (this.#isDrawn(chosen)) return this.#caption(this.#charts.rate.cursor.idx);
    this.#charts ??= this.#build();
    const column = (place) => this.#points.map((point) => point[place]);
    const times = this.#points.map(([at]) => at / 1000);
    this.#charts.rate.setData([times, column(1)]);
    this.#charts.connections.setData([times, column(2), column(3)]);
    setAttribute(byId("chart-rate"), "aria-label", this.#spoken());
    return this.#caption(this.#charts.rate.cursor.idx);
  }

  /** Whether the charts would look the same: less than a pixel of time has passed. */
  #isDrawn(range) {
    const [first, last] = [this.#points[0][0], this.#points.at(-1)[0]];
    const before = this.#drawn;
    const pixel = (last - first) / byId("chart-rate").clientWidth;
    const isSame = this.#charts && before.range === range && before.marks === this.#model.marks &&
      last >= before.last && last - before.last < pixel && before.number === this.#lastMark();
    if (!isSame) {
      this.#drawn = { range, last, marks: this.#model.marks, number: this.#lastMark() };
    }
    return isSame;
  }

  #lastMark() {
    return this.#model.marks.at(-1)?.number ?? 0;
  }

  /** Draws again, with the colours of now. */
  rebuild() {
    if (!this.#charts) return;
    this.#charts.rate.destroy();
    this.#charts.connections.destroy();
    this.#charts = null;
    this.show();
  }

  #resize() {
    if (!this.#charts) return;
    for (const [name, plot] of Object.entries(this.#charts)) {
      const { clientWidth: width, clientHeight: height } = byId(`chart-${name}`);
      if (width > 0 && (width !== plot.width || height !== plot.height)) {
        plot.setSize({ width, height });
      }
    }
  }

  #build() {
    const stepped = uPlot.paths.stepped({ align: 1 });
    const success = colour("--success");
    return {
      rate: this.#chart("rate", [
        { stroke: success, fill: `color-mix(in srgb, ${success} 18%, transparent)`, width: 2,
          points: { show: false } },
      ], (_, splits) => {
        // Between two whole bytes a second ticks would have the same text.
        const texts = splits.map(rate);
        return texts.map((text, place) => (text === texts[place - 1] ? "" : text));
      }),
      connections: this.#chart("connections", [
        { stroke: colour("--text"), width: 1.5, dash: [6, 3], paths: stepped,
          points: { show: false } },
        { stroke: colour("--running"), width: 2, paths: stepped, points: { show: false } },
      ], (_, splits) => splits.map((value) => (Number.isInteger(value) ? count(value) : ""))),
    };
  }

  #chart(name, series, values) {
    const box = byId(`chart-${name}`);
    const line = { stroke: colour("--line"), width: 1 };
    const text = { stroke: colour("--dim"), grid: line, ticks: line, font: "12px system-ui" };
    const times = (_, splits, __, ___, step) =>
      splits.map((at) => tick(at * 1000, step * 1000));
    const options = {
      width: box.clientWidth, height: box.clientHeight, legend: { show: false },
      padding: [null, TIME_HALF, null, null],
      series: [{}, ...series],
      axes: [{ ...text, values: times, size: 28, space: TIME_GAP }, { ...text, values, size: 74 }],
      cursor: { sync: { key: "time" }, drag: { x: false, y: false }, points: { size: 8 } },
      scales: { y: { range: fromZero } },
      hooks: {
        draw: [(plot) => this.#drawMarks(plot)],
        setCursor: name === "rate" ? [(plot) => this.#caption(plot.cursor.idx)] : [],
      },
    };
    box.replaceChildren();
    return new uPlot(options, [[], ...series.map(() => [])], box);
  }

  /** Vertical lines where the limit has changed, with the numbers of the list. */
  #drawMarks(plot) {
    const { ctx, bbox } = plot;
    const pixels = devicePixelRatio || 1;
    let free = -Infinity;
    ctx.save();
    ctx.strokeStyle = colour("--mark");
    ctx.fillStyle = colour("--mark");
    ctx.font = `bold ${11 * pixels}px system-ui`;
    ctx.textAlign = "center";
    for (const { number, at_ms: at } of this.#model.marks) {
      const x = plot.valToPos(at / 1000, "x", true);
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.setLineDash([3 * pixels, 3 * pixels]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      if (x < free) continue;
      ctx.fillText(String(number), x, bbox.top - 4 * pixels);
      free = x + NUMBER_GAP * pixels;
    }
    ctx.restore();
  }

  #listMarks() {
    const { marks } = this.#model;
    const newest = marks.slice(-LISTED_OPEN).reverse();
    const now = this.#model.time();
    const show = (list, items) => keyed(list, items, ({ number }) => number,
      () => make("li", {}, make("b"), make("time"), make("span")),
      (item, { number, at_ms: at, limit, why }) => {
        setText(item.children[0], String(number));
        setText(item.children[1], clock(at, now));
        setText(item.children[2], why || `at most ${count(limit)} connections`);
      });
    byId("marks").hidden = marks.length === 0;
    show(byId("marks-list"), newest.slice(0, LISTED));
    const older = newest.slice(LISTED);
    byId("marks-more").hidden = older.length === 0;
    setText(byId("marks-count"), several(marks.length - LISTED, "earlier change"));
    show(byId("marks-older"), byId("marks-more").open ? older : []);
  }

  /** The values at the pointer, or the last ones, and the reason of a mark that is near. */
  #caption(place) {
    const isHovered = place != null && this.#points[place] !== undefined;
    const [at, bytes, limit, open] = this.#points[isHovered ? place : this.#points.length - 1];
    const now = this.#model.time();
    setText(byId("chart-time"), clock(at, now));
    setText(byId("legend-rate"), rate(bytes));
    setText(byId("legend-open"), count(open));
    setText(byId("legend-limit"), count(limit));
    const note = byId("chart-note");
    const mark = isHovered ? this.#near() : undefined;
    setText(note, mark ? `${mark.number} at ${clock(mark.at_ms, now)}: ${mark.why}` : "");
  }

  #near() {
    const plot = this.#charts.rate;
    const away = ({ at_ms: at }) => Math.abs(plot.valToPos(at / 1000, "x") - plot.cursor.left);
    const near = this.#model.marks.filter((mark) => away(mark) <= NEAR_PIXELS);
    return near.sort((one, other) => away(one) - away(other))[0];
  }

  /** The chart in words: what it spans, its last value, its lowest and its highest. */
  #spoken() {
    const points = this.#points;
    const rates = points.map(([, bytes]) => bytes).filter((bytes) => bytes != null);
    if (rates.length === 0) return "Throughput over time: no figures yet";
    const [low, high] = [rates.reduce(least), rates.reduce(most)];
    const span = duration(points.at(-1)[0] - points[0][0]);
    const [, , limit, open] = points.at(-1);
    return `Throughput and connections over ${span}: now ${rate(rates.at(-1))}, lowest ` +
      `${rate(low)}, highest ${rate(high)}; ${count(open)} connections open, limit ${count(limit)}`;
  }
}

const least = (one, other) => Math.min(one, other);
const most = (one, other) => Math.max(one, other);
const fromZero = (_, low, high) => [0, Math.max(high ?? 0, 1) * 1.15];
