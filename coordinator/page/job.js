// The job as a whole: the bar, the counts, the rate and the time left.

import { byId, filterLink, keyed, make, setAttribute, setLink, setText } from "./dom.js";
import { clock, count, duration, percent, rate, several, size } from "./format.js";

/** Name of the colour, label, and letters of the states in the map. */
const PARTS = [
  ["success", "Success", "s"], ["skipped", "Skipped", "k"], ["failed", "Failed", "f"],
  ["running", "Running", "r"], ["waiting", "Waiting", "w,d"],
];

/** What the coordinator does. A state that needs attention is marked in the page. */
const PHASES = {
  running: "running", recovering: "recovering after a restart",
  waiting_for_workers: "waiting for workers", done: "finished", stopping: "stopping",
  origin_paused: "the origin fails for all workers: one class at a time tests it",
};
const ATTENTION = ["waiting_for_workers", "origin_paused", "stopping"];

/** Shows the model's job, origin and state. */
export function showJob(model) {
  const { job } = model;
  const parts = {
    success: job.success, skipped: job.skipped, failed: job.failed, running: job.leased,
    waiting: job.pending,
  };
  const settled = job.success + job.skipped + job.failed;
  showBar(parts, job.total);
  setText(byId("percent"), percent(settled, job.total));
  setText(byId("settled"), `${count(settled)} of ${several(job.total, "class")} settled`);
  setAttribute(byId("bar"), "aria-label", spoken(parts, settled, job.total));
  keyed(byId("counts"), PARTS, ([name]) => name, createCount, (item, [name, label, letters]) => {
    setLink(item.firstChild, label, { states: letters, cause: "", worker: "" }, "classes");
    setText(item.lastChild, count(parts[name]));
  });
  keyed(byId("figures"), figures(model, job), ([term]) => term,
    ([term]) => make("div", {}, make("dt", {}, term), make("dd"), make("dd", { class: "more" })),
    (item, [, text, more]) => {
      setText(item.children[1], text);
      setText(item.children[2], more ?? "");
    });
  const state = byId("state");
  setText(state, sentence(model.state, model.origin, model.time()));
  state.classList.toggle("attention", ATTENTION.includes(model.state.phase) ||
    Boolean(model.origin.quiet_until_ms));
}

const spoken = (parts, settled, total) =>
  `${percent(settled, total)} of ${several(total, "class")} settled: ` +
  PARTS.map(([name, label]) => `${label} ${count(parts[name])}`).join(", ");

function showBar(parts, total) {
  keyed(byId("bar"), PARTS, ([name]) => name, ([name]) => make("span", { class: name }),
    (span, [name]) => {
      span.hidden = !parts[name];
      span.style.flexGrow = String((1000 * parts[name]) / Math.max(1, total));
    });
}

function createCount([name]) {
  return make("li", {}, filterLink(), make("i", { class: name, "aria-hidden": "true" }), make("b"));
}

/** Term, text and a second line; a figure that is not known is left out. */
function figures(model, job) {
  const { origin } = model;
  const end = job.done ? job.ended_at_ms : model.time();
  const isKnown = end != null && job.started_at_ms != null;
  const elapsed = isKnown ? end - job.started_at_ms : null;
  const all = [
    timeLeft(job),
    ["Rate", job.done ? "" : rate(origin.bytes_per_second)],
    ["Received", size(job.received_bytes)],
    connections(origin, job),
    ["Origin", requests(origin), incidents(origin)],
    [job.done ? "Took" : "Running for", duration(elapsed),
      isKnown ? `since ${clock(job.started_at_ms, model.time())}` : ""],
  ];
  return all.filter(([, text]) => text !== "");
}

function timeLeft({ done, time_left_ms: about, time_left_low_ms: low, time_left_high_ms: high }) {
  if (done || about == null) return ["Time left", ""];
  const isRange = low != null && high != null && duration(low) !== duration(high);
  return ["Time left", `about ${duration(about)}`,
    isRange ? `between ${duration(low)} and ${duration(high)}` : ""];
}

function connections({ open, limit, wanted, upper_bound: bound }, { done }) {
  if (done || limit == null) return ["Connections", ""];
  const more = [];
  if (wanted != null) more.push(`${count(wanted)} wanted`);
  if (bound != null) more.push(`never more than ${count(bound)}`);
  return ["Connections", `${count(open)} of ${count(limit)}`, more.join(", ")];
}

const requests = (origin) => (origin.requests == null ? "" : several(origin.requests, "request"));

function incidents({ cuts, refusals, overloads }) {
  const all = [[cuts, "cut"], [refusals, "refusal"], [overloads, "overload"]];
  const happened = all.filter(([number]) => number > 0);
  return happened.map(([number, word]) => several(number, word)).join(", ") || "no incident";
}

/** The state in words; `{until}` in the coordinator's sentence is the place of a time. */
export function sentence(state, origin, now) {
  if (state.sentence) {
    const until = state.until_ms == null ? "" : clock(state.until_ms, now);
    return state.sentence.replace("{until}", until);
  }
  if (origin.quiet_until_ms) {
    return `no requests to the origin until ${clock(origin.quiet_until_ms, now)}`;
  }
  return PHASES[state.phase] ?? state.phase ?? "";
}
