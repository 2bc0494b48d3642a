// The stream breaks and comes back; without it the page asks; the age of the figures is said.

import assert from "node:assert/strict";
import { hasFigures, waitFor } from "./browser.mjs";
import { story } from "./stories.mjs";

const age = (page) => page.innerText("#age");
const settled = (page) => page.innerText("#settled");
const streams = (mock) => mock.requests.filter((one) => one.endsWith("api/v1/events")).length;
const snapshots = (mock) => mock.requests.filter((one) => one.endsWith("api/v1/snapshot")).length;

story("the figures move with the stream", {}, async ({ page, mock }) => {
  assert.equal(await settled(page), "12 of 30 classes settled");
  mock.job.step(3);
  mock.send();
  await waitFor("three more", () => settled(page), (text) => text.startsWith("15 of 30"));
  assert.match(await age(page), /^live, [012] s old$/);
});

story("a stream that is cut comes back by itself", { mayFail: true }, async ({ page, mock }) => {
  mock.cut();
  await waitFor("another stream", () => streams(mock), (number) => number === 2);
  mock.job.step(3);
  mock.send();
  await waitFor("new figures", () => settled(page), (text) => text.startsWith("15 of 30"));
  assert.equal(await page.locator("body.stale").count(), 0);
});

story("without a coordinator the page is stale, and live again when one is back",
  { mayFail: true }, async ({ page, mock, url }) => {
    await mock.close();
    await page.waitForSelector("body.stale");
    assert.match(await page.innerText("#stale"), /^Stale\. These figures are \d+ s old: .*again/);
    assert.match(await page.title(), /^\(stale\)/);
    assert.equal(await settled(page), "12 of 30 classes settled");
    await mock.listen(Number(new URL(url).port));
    await page.waitForSelector("body:not(.stale)");
    assert.match(await age(page), /^live/);
  });

story("a silent stream is given up, and the page asks instead", {
  mayFail: true, isShut: true, mock: (mock) => { mock.streams = "held"; },
  open: (page) => page.clock.install(),
}, async ({ page, mock }) => {
  await waitFor("the stream", () => streams(mock));
  await page.clock.runFor(13_000);
  await hasFigures(page);
  await page.clock.runFor(5_000);
  await waitFor("two snapshots", () => snapshots(mock), (number) => number >= 2);
  assert.match(await age(page), /^live, \d s old, asked every 4 s/);
  mock.streams = "open";
  await page.clock.runFor(70_000);
  await waitFor("a viewer", () => mock.viewers());
});

story("a refused stream is replaced by questions at once", {
  mayFail: true, mock: (mock) => { mock.streams = "refused"; },
}, async ({ page, mock }) => {
  assert.ok(snapshots(mock) >= 1);
  await waitFor("how it is fed", () => age(page), (text) => text.includes("asked every 4 s"));
});

story("the page works behind a path prefix", { mock: (mock) => { mock.prefix = "/a/watch"; } },
  async ({ page, mock }) => {
    mock.job.step(1);
    mock.send();
    await waitFor("new figures", () => settled(page), (text) => text.startsWith("13 of 30"));
    const outside = mock.requests.filter((one) => !one.startsWith("GET /a/watch/"));
    assert.deepEqual(outside, []);
  });

story("a coordinator of another version asks for a reload", { mayFail: true },
  async ({ page, mock }) => {
    const snapshot = mock.job.snapshot.bind(mock.job);
    mock.job.snapshot = () => ({ ...snapshot(), version: "0.2.0" });
    mock.cut();
    await page.getByRole("button", { name: "Load the page again" }).click();
    await hasFigures(page);
    await waitFor("the version", () => page.innerText("#about"), (text) => text.includes("0.2.0"));
  });

story("the end of the job is no break of the stream", { mayFail: true },
  async ({ page, mock }) => {
    mock.job.step(30);
    mock.job.step(30);
    mock.send();
    await waitFor("the end", () => page.innerText("#state"), (text) => text === "finished");
    await mock.close();
    await waitFor("the last figures", () => age(page),
      (text) => text.startsWith("the job has ended"));
    assert.equal(await page.locator("body.stale").count(), 0);
    assert.equal(await settled(page), "30 of 30 classes settled");
  });

story("a worker that falls silent and is lost is said at once", {}, async ({ page, mock }) => {
  const row = page.locator("#worker-table tbody tr", { hasText: "node-0001" });
  mock.job.setWorker("node-0001", { state: "silent" }, Date.now() - 6_000);
  mock.send();
  await waitFor("silent", () => row.innerText(), (text) => /silent since .*\([678] s\)/.test(text));
  assert.match(await page.innerText("#worker-table tbody tr:first-child"), /node-0001/);
  mock.job.setWorker("node-0001", { state: "lost" });
  mock.send();
  await waitFor("lost", () => row.innerText(), (text) => text.includes("lost since"));
});
