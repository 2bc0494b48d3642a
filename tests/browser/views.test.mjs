// Every view of the page: no error in the console, nothing serious by axe, no text for an unknown
// value, nothing wider than the screen.

import assert from "node:assert/strict";
import { checkAccessibility, waitFor } from "./browser.mjs";
import { story } from "./stories.mjs";
import { VIEWS } from "./views.mjs";

for (const view of VIEWS) {
  const { tokens, isStale } = view;
  const options = {
    ...view, isShut: Boolean(tokens), mayFail: Boolean(tokens || isStale),
    mock: (mock) => { mock.tokens = tokens ?? {}; },
  };
  story(`the view "${view.name}" can be read by all`, options, async ({ page, mock }) => {
    if (tokens) await page.waitForSelector("dialog[open]");
    else if (isStale) {
      await mock.close();
      await page.waitForSelector("body.stale");
    } else {
      mock.send();
      await waitFor("the charts or their replacement",
        () => page.locator("#charts canvas, #no-history:not([hidden])").count());
    }
    await checkAccessibility(page);
    const text = await page.innerText("body");
    assert.doesNotMatch(text, /\b(null|undefined|NaN|Infinity|\[object)/);
    const overflow = await page.evaluate(
      "document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth");
    assert.equal(overflow, 0, "the page is wider than the screen");
  });
}

story("nothing moves, with and without reduced motion", {}, async ({ page, mock }) => {
  const moving = () => page.evaluate("document.getAnimations().length");
  for (const reducedMotion of ["reduce", "no-preference"]) {
    await page.emulateMedia({ reducedMotion });
    const next = mock.job.next + 2;
    mock.job.step(2);
    mock.send();
    await waitFor("the figures", () => page.innerText("#settled"),
      (text) => text.startsWith(`${next} of`));
    assert.equal(await moving(), 0);
  }
});

story("values that are unknown are left out", {
  before: (job) => {
    const snapshot = job.snapshot.bind(job);
    job.snapshot = () => {
      const message = snapshot();
      for (const name of ["received_bytes", "time_left_ms", "started_at_ms"]) {
        message.job[name] = null;
      }
      Object.assign(message.origin, { bytes_per_second: null, requests: null, limit: null });
      for (const name of ["bytes_per_second", "disk_free", "since_ms", "host"]) {
        for (const worker of message.workers.first) worker[name] = null;
      }
      message.workers.bytes_per_second = null;
      return message;
    };
  },
}, async ({ page }) => {
  await waitFor("the rows", () => page.locator("#worker-table tbody tr").count());
  assert.equal(await page.locator("#figures div").count(), 0);
  const cells = await page.locator("#worker-table tbody tr:first-child td").allInnerTexts();
  assert.deepEqual([cells[1], cells[6], cells[7]], ["", "", ""]);
  assert.equal(await page.getByRole("columnheader", { name: "Host" }).count(), 0);
  assert.equal(await page.getByRole("columnheader", { name: "Version" }).count(), 1);
  assert.doesNotMatch(await page.innerText("#workers"), /0 B/);
});

const HOSTILE = '<img src="x" onerror="document.title=1">';

story("names and messages of others are shown as text", {
  before: (job) => {
    job.workers[0].name = HOSTILE;
    job.workers[0].waits_for = HOSTILE;
    job.sentence = HOSTILE;
  },
}, async ({ page }) => {
  await page.getByRole("rowheader", { name: HOSTILE }).first().waitFor();
  assert.equal(await page.innerText("#state"), HOSTILE);
  assert.equal(await page.locator("img").count(), 0);
});

story("the parts have names and figures for a screen reader", {}, async ({ page }) => {
  await waitFor("the chart", () => page.getAttribute("#chart-rate", "aria-label"));
  const label = (id) => page.getAttribute(id, "aria-label");
  assert.match(await label("#bar"),
    /^40 % of 30 classes settled: Success \d+, Skipped 1, Failed 1, Running 18, Waiting 0$/);
  assert.match(await label("#chart-rate"),
    /^Throughput and connections over \d+ min: now \d+ MB\/s, lowest \d+ MB\/s, highest/);
  const tree = await page.locator("body").ariaSnapshot();
  for (const part of ["heading \"Failures 1\"", "application \"All classes\"",
    "table", "columnheader \"Disk free\"", "button \"Success", "status: running"]) {
    assert.ok(tree.includes(part), `${part} is missing in\n${tree}`);
  }
});

story("cards of a phone are still rows and cells", {
  browser: { viewport: { width: 390, height: 844 } },
}, async ({ page }) => {
  await page.getByRole("row", { name: /node-0001/ }).first().waitFor();
  const cell = page.getByRole("cell", { name: "limit of 24 connections" });
  assert.equal(await cell.count(), 1);
});
