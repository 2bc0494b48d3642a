// The page of a coordinator: reads the stream and shows each part.

import { Access, token } from "./access.js";
import { Charts } from "./charts.js";
import { byId, goTo, setText, tell } from "./dom.js";
import { Failures } from "./failures.js";
import { Feed } from "./feed.js";
import { clock, duration, percent } from "./format.js";
import { Highlight } from "./highlight.js";
import { showJob } from "./job.js";
import { ClassMap } from "./map.js";
import { Model } from "./model.js";
import { Transfers } from "./transfers.js";
import { Workers } from "./workers.js";

/** Version of the API that this page reads. */
const API_VERSION = 1;
/** Age of figures that are stale, in milliseconds: events come at least every 5 s. With a stream
 *  that is known to be broken they are stale earlier. */
const STALE_AGE = 7_000;
const STALE_AGE_WITHOUT_STREAM = 2_000;
/** Time between two drawings, in milliseconds: updates come at most once a second. */
const DRAW_INTERVAL = 900;
/** Time after which the age is said again if nothing was drawn, in milliseconds. */
const AGE_INTERVAL = 1_000;
/** Time between two requests for a list, in milliseconds. */
const REFRESH_INTERVAL = 2_000;
const MISDIRECTED = 421;

const model = new Model();
const highlight = new Highlight(model, token, () => map.draw());
const map = new ClassMap(model, token, () => highlight.rows);
const charts = new Charts(model);
const failures = new Failures(model, token);
const workers = new Workers(model, token);
const transfers = new Transfers(model, token);
const access = new Access(start);
/** Rows of the map that have changed since it was drawn. */
let changed = new Set();
let isScheduled = false;
let drawn = -Infinity;
/** Why the stream is broken; "" while it is not. */
let lost = "";
let isPolled = false;
let isStale = false;
let version = null;
let feed = null;

function handle(name, message, polled) {
  lost = "";
  isPolled = polled;
  if (name === "snapshot") {
    if (message.api !== API_VERSION) return needsReload();
    version ??= message.version;
    if (message.version !== version) return needsReload();
    model.snapshot(message, Date.now());
    changed = new Set();
    byId("content").hidden = false;
    map.filter();
    refresh();
  } else if (name === "update" && model.loaded) {
    for (const row of model.update(message, Date.now())) changed.add(row);
  } else return undefined;
  return schedule();
}

/** The coordinator has another version than the one that delivered this page. */
function needsReload() {
  feed.stop();
  byId("reload").hidden = false;
}

/** Draws what has come, at most once in `DRAW_INTERVAL`, and nothing while the tab is hidden. */
function schedule() {
  if (isScheduled || document.hidden) return;
  isScheduled = true;
  const wait = Math.max(0, DRAW_INTERVAL - (performance.now() - drawn));
  setTimeout(() => requestAnimationFrame(draw), wait);
}

function draw() {
  isScheduled = false;
  drawn = performance.now();
  map.paint(changed);
  map.legend();
  map.again(changed);
  changed = new Set();
  showJob(model);
  charts.show();
  failures.show();
  workers.show();
  transfers.show();
  byId("sign-in").hidden = model.may_retry !== false;
  setText(byId("about"),
    `coordinator ${model.version}, run ${model.run_id}, start ${model.epoch}`);
  showAge();
}

/** Says how old the figures are, and marks the page while they are stale. */
function showAge() {
  if (!model.loaded) return;
  const age = Math.max(0, Date.now() - model.received);
  const isOld = age > STALE_AGE || (lost !== "" && age > STALE_AGE_WITHOUT_STREAM);
  const hasEnded = isOld && model.job.done;
  const was = isStale;
  isStale = isOld && !hasEnded;
  document.body.classList.toggle("stale", isStale);
  byId("stale").hidden = !isStale;
  if (isStale) {
    setText(byId("stale-text"), `These figures are ${duration(age)} old: ` +
      `${lost || "nothing comes from the coordinator"}. The page connects again by itself.`);
  }
  const seconds = Math.round(age / 1000);
  const by = isPolled ? ", asked every 4 s because the stream does not arrive" : "";
  const live = isStale ? `stale, ${duration(age)} old` : `live, ${seconds} s old${by}`;
  const ended = `the job has ended; figures of ${clock(model.at_ms)}`;
  setText(byId("age"), hasEnded ? ended : live);
  const { success, skipped, failed, total } = model.job;
  const settled = percent(success + skipped + failed, total);
  const title = `${isStale ? "(stale) " : ""}${settled} – ImageNet download`;
  if (document.title !== title) document.title = title;
  if (isStale !== was) tell(isStale ? "The figures are stale." : "The figures are live again.");
}

function start() {
  feed?.stop();
  feed = new Feed({
    token,
    event: (name, message, polled) => {
      try {
        handle(name, message, polled);
      } catch (error) {
        console.error(error); // An error of the page is no error of the connection.
      }
    },
    viewer: (rights) => {
      model.may_retry = rights.may_retry;
      if (model.loaded) schedule();
    },
    lost: (why) => {
      lost = why;
      if (!model.loaded) setText(byId("age"), `${why}; connecting again`);
      showAge();
    },
    refused: (error) => {
      byId("content").hidden = true;
      const isMisdirected = error.status === MISDIRECTED;
      setText(byId("age"), isMisdirected ? error.message : "no access");
      if (!isMisdirected) access.demand(error);
    },
  });
}

/** Asks for what the filters of the address need beyond the stream. */
function refresh() {
  if (document.hidden || !model.loaded || lost !== "") return;
  for (const part of [workers, transfers, highlight]) part.refresh();
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  charts.rebuild();
  map.draw();
});
for (const link of document.querySelectorAll(".skip")) {
  link.addEventListener("click", (event) => {
    event.preventDefault(); // The fragment of the address has the filters.
    goTo(link.hash.slice(1));
  });
}
byId("reload-button").addEventListener("click", () => location.reload());
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  feed.hurry();
  if (model.loaded) schedule();
});
addEventListener("online", () => feed.hurry());
setInterval(() => performance.now() - drawn > AGE_INTERVAL && showAge(), AGE_INTERVAL);
setInterval(refresh, REFRESH_INTERVAL);
start();
