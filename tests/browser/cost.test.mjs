// What the page costs with 1,000 workers and 21,843 classes: bytes, first paint, memory, time.

import assert from "node:assert/strict";
import { test } from "node:test";
import { hasFigures, open, waitFor } from "./browser.mjs";
import { MockCoordinator } from "./mock_coordinator.mjs";
import { MockJob } from "./mock_job.mjs";
import { limits, story, theBrowser } from "./stories.mjs";
import { Tab } from "./tab.mjs";

const LARGE = { classes: 21_843, workers: 1_000, settled: 0.3 };
const PAGE_BYTES = 250_000;
const PAINT = 1_000;
/** In MiB, proportional set size of the renderer. */
const TAB = 150;
const VIEWER_RATE = 30_000;
const EVENTS = 3_600;
/** How many times faster than the clock the events of an hour come. */
const SPEED = 150;
const say = (text) => process.stdout.write(`# ${text}\n`);

story("the page and its first figures are small, and drawn within a second", { job: LARGE },
  async ({ url }) => {
    const times = [];
    for (let attempt = 0; attempt < 3; attempt += 1) {
      const page = await open(theBrowser(), null);
      const bodies = [];
      page.on("requestfinished", (request) => bodies.push(request));
      await page.goto(url);
      await hasFigures(page);
      const [paint] = await waitFor("the paint", () => page.evaluate(
        "performance.getEntriesByName('first-contentful-paint').map((one) => one.startTime)"),
      (found) => found.length === 1);
      const figures = await page.evaluate("performance.now()");
      times.push({ paint, figures });
      if (attempt === 0) {
        const sizes = await Promise.all(bodies.map(async (one) => (await one.sizes())
          .responseBodySize));
        const bytes = sizes.reduce((sum, size) => sum + size, 0);
        say(`page: ${bytes} bytes in ${sizes.length} files`);
        assert.ok(sizes.length > 10 && bytes < PAGE_BYTES, `${bytes} bytes`);
      }
      await page.context().close();
    }
    const first = Math.min(...times.map(({ figures }) => figures));
    say(`first paint ${times.map(({ paint }) => Math.round(paint))} ms, ` +
      `figures ${times.map(({ figures }) => Math.round(figures))} ms`);
    assert.ok(first < PAINT, `${first} ms`);
  });

story("an update is small and cheap to draw", { job: LARGE }, async ({ page, mock }) => {
  mock.job.step(12);
  const update = JSON.stringify(mock.job.update()).length;
  say(`snapshot ${JSON.stringify(mock.job.snapshot()).length} bytes, update ${update} bytes`);
  assert.ok(update < VIEWER_RATE);
  const session = await page.context().newCDPSession(page);
  await session.send("Performance.enable");
  const spent = async () => {
    const { metrics } = await session.send("Performance.getMetrics");
    return metrics.find(({ name }) => name === "TaskDuration").value * 1000;
  };
  await page.getByRole("button", { name: /^All/ }).click();
  await waitFor("a page of workers", () => page.locator("#worker-table tbody tr").count(),
    (rows) => rows === 200);
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

test("an hour of events leaves the tab below 150 MiB", limits, async () => {
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
