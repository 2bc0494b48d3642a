// What the page costs with 1,000 workers and 21,843 classes: bytes, first paint, memory, time. Of the
// mock; `PAGE_URL=http://127.0.0.1:8080/` names a running coordinator to measure in its place.

import assert from "node:assert/strict";
import { test } from "node:test";
import { hasFigures, open, waitFor } from "./browser.mjs";
import { MockCoordinator } from "./mock_coordinator.mjs";
import { MockJob } from "./mock_job.mjs";
import { limits, story, theBrowser } from "./stories.mjs";
import { Tab } from "./tab.mjs";

const LARGE = { classes: 21_843, workers: 1_000, settled: 0.3 };
const PAGE_BYTES = 250_000;
/** Milliseconds until the page is drawn. */
const PAINT = 1_000;
/** Milliseconds until it has figures: 650 on two idle cores, twice as long on busy ones. */
const FIGURES = 2_000;
/** In MiB, proportional set size of the renderer. */
const TAB = 150;
const VIEWER_RATE = 30_000;
const EVENTS = 3_600;
/** How many times faster than the clock the events of an hour come. */
const SPEED = 150;
const say = (text) => process.stdout.write(`# ${text}\n`);

/** A running coordinator to measure, as `http://127.0.0.1:8080/`; "": the mock. */
const RUNNING = process.env.PAGE_URL ?? "";
const reason = RUNNING ? "PAGE_URL names a coordinator" : "PAGE_URL names no coordinator";
const ofMock = { ...limits, skip: limits.skip || (RUNNING !== "" && reason) };
const ofRunning = { ...limits, skip: limits.skip || (RUNNING === "" && reason) };

/** Reads the events of a stream for a time; at least the first one.
 *  @returns {Promise<{first: number, later: number, events: number}>} bytes of the first event, of
 *  those after it, and their number */
async function readEvents(url, milliseconds) {
  const abort = new AbortController();
  const answer = await fetch(new URL("api/v1/events", url), { signal: abort.signal });
  assert.equal(answer.status, 200);
  const sizes = [];
  let rest = "";
  let end = Infinity;
  const reader = answer.body.pipeThrough(new TextDecoderStream("latin1")).getReader();
  while (performance.now() < end) {
    const { done, value } = await reader.read();
    assert.ok(!done, "the stream ended");
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    sizes.push(...events.map((event) => event.length + 2));
    if (sizes.length > 0 && end === Infinity) end = performance.now() + milliseconds;
  }
  await reader.cancel().catch(() => {});
  abort.abort();
  const [first, ...later] = sizes;
  return { first, later: later.reduce((sum, size) => sum + size, 0), events: later.length };
}

/** @returns {Promise<() => Promise<number>>} tells the time of the tab's main thread so far, in ms */
async function mainThread(page) {
  const session = await page.context().newCDPSession(page);
  await session.send("Performance.enable");
  return async () => {
    const { metrics } = await session.send("Performance.getMetrics");
    return metrics.find(({ name }) => name === "TaskDuration").value * 1000;
  };
}

/** Lists all workers. */
async function listWorkers(page) {
  await page.getByRole("button", { name: /^All/ }).click();
  await waitFor("a page of workers", () => page.locator("#worker-table tbody tr").count(),
    (rows) => rows === 200);
}

/** A running coordinator's address, or that of a mock until `tell` has ended. */
async function withCoordinator(tell) {
  if (RUNNING) return tell(RUNNING);
  const mock = new MockCoordinator(new MockJob(LARGE));
  try {
    return await tell(await mock.listen());
  } finally {
    await mock.close();
  }
}

/** Opens the page with nothing in the cache.
 *  @returns {Promise<{paint: number, figures: number, sizes: number[]}>} milliseconds until it was
 *  drawn and until it had figures, and the bytes of each file */
async function openCold(url) {
  const page = await open(theBrowser(), null);
  const files = [];
  page.on("requestfinished", (request) => files.push(request));
  await page.goto(url);
  await hasFigures(page);
  const figures = await page.evaluate("performance.now()");
  const [paint] = await waitFor("the paint", () => page.evaluate(
    "performance.getEntriesByName('first-contentful-paint').map((one) => one.startTime)"),
  (found) => found.length === 1);
  const sizes = await Promise.all(files.map(async (file) => (await file.sizes()).responseBodySize));
  await page.context().close();
  return { paint, figures, sizes };
}

test("the page and its first figures are small and soon drawn", limits, () =>
  withCoordinator(async (url) => {
    const times = [];
    for (let attempt = 0; attempt < 3; attempt += 1) times.push(await openCold(url));
    const [{ sizes }] = times;
    const bytes = sizes.reduce((sum, size) => sum + size, 0);
    const { first } = await readEvents(url, 0);
    say(`page: ${bytes} bytes in ${sizes.length} files, first snapshot ${first} bytes`);
    say(`first paint ${times.map(({ paint }) => Math.round(paint))} ms, ` +
      `figures ${times.map(({ figures }) => Math.round(figures))} ms`);
    // The snapshot of the mock is not that of the coordinator.
    const counted = RUNNING ? bytes + first : bytes;
    assert.ok(sizes.length > 10 && counted < PAGE_BYTES, `${counted} bytes`);
    const soonest = (name) => Math.min(...times.map((time) => time[name]));
    assert.ok(soonest("paint") < PAINT, `${soonest("paint")} ms`);
    assert.ok(soonest("figures") < FIGURES, `${soonest("figures")} ms`);
  }));

test("the events of a running coordinator are small and cheap to draw", ofRunning, async () => {
  const page = await open(theBrowser(), RUNNING);
  await hasFigures(page);
  await listWorkers(page);
  const spent = await mainThread(page);
  const before = await spent();
  const seconds = 20;
  const { later, events } = await readEvents(RUNNING, seconds * 1_000);
  const each = (await spent() - before) / seconds;
  const rate = later / seconds;
  say(`${events} events in ${seconds} s, ${Math.round(rate)} bytes/s; ${each.toFixed(0)} ms of ` +
    "the tab's main thread each second, with 200 workers listed");
  assert.ok(events >= seconds / 5 && rate < VIEWER_RATE, `${events} events, ${rate} bytes/s`);
  assert.ok(each < 300, `${each} ms`);
  assert.deepEqual(page.problems, []);
  await page.context().close();
});

story("an update is small and cheap to draw", { job: LARGE, skip: ofMock.skip }, async ({ page, mock }) => {
  mock.job.step(12);
  const update = JSON.stringify(mock.job.update()).length;
  say(`snapshot ${JSON.stringify(mock.job.snapshot()).length} bytes, update ${update} bytes`);
  assert.ok(update < VIEWER_RATE);
  const spent = await mainThread(page);
  await listWorkers(page);
  const before = await spent();
  const target = mock.job.next + 60;
  const seconds = 5;
  for (let second = 0; second < seconds; second += 1) {
    const next = mock.job.next + 12;
    mock.job.step(12);
    mock.send();
    await waitFor("the figures", () => page.textContent("#settled"),
      (text) => text.startsWith(next.toLocaleString("en")));
  }
  assert.equal(mock.job.next, target);
  const each = (await spent() - before) / seconds;
  say(`${each.toFixed(0)} ms of the tab's main thread for an update, with 200 workers listed`);
  assert.ok(each < 300, `${each} ms`);
});

test("an hour of events leaves the tab below 150 MiB", ofMock, async () => {
  const mock = new MockCoordinator(new MockJob({ ...LARGE, settled: 0.05 }));
  mock.speed = SPEED;
  const tab = new Tab(await mock.listen());
  try {
    await waitFor("a viewer", () => mock.viewers());
    const start = Date.now();
    for (let event = 1; event <= EVENTS; event += 1) {
      mock.job.step(3);
      mock.send();
      const wait = start + (event * 1_000) / SPEED - Date.now();
      await new Promise((resolve) => setTimeout(resolve, Math.max(0, wait)));
    }
    const inMib = () => Math.round(tab.memory() / 2 ** 20);
    const most = await waitFor("the memory of the tab", inMib, (size) => size <= TAB);
    say(`the tab has ${most} MiB after ${EVENTS} events`);
    const page = await tab.attach();
    const settled = mock.job.next.toLocaleString("en");
    await waitFor("the last event", () => page.innerText("#settled"),
      (text) => text.startsWith(settled));
  } finally {
    await tab.close();
    await mock.close();
  }
});
