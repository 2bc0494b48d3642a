// Draws every view of the page: of the mock coordinator, and then of a job of the real programs,
// which takes some minutes.
//
//     node tests/browser/screenshots.mjs [FOLDER [NAME …]]

import fs from "node:fs";
import { hasFigures, launch, layOut, open, waitFor } from "./browser.mjs";
import { MockCoordinator } from "./mock_coordinator.mjs";
import { MockJob } from "./mock_job.mjs";
import { missingPrograms } from "./programs.mjs";
import { RealJob } from "./real_job.mjs";
import { REAL_VIEWS, VIEWS } from "./views.mjs";

const [folder = "target/screenshots", ...names] = process.argv.slice(2);

/** Below the last part of a picture that is no whole page, in pixels. */
const MARGIN = 14;

const isWanted = ({ name }) => names.length === 0 || names.includes(name);

/** Draws what a page shows now. */
async function draw(page, { name, tokens, last, browser: { viewport } = {} }) {
  await page.waitForLoadState("networkidle", { timeout: 1_500 }).catch(() => {});
  await waitFor("fonts", () => page.evaluate("document.fonts.status"), (is) => is === "loaded");
  await layOut(page);
  const options = { path: `${folder}/${name}.png`, fullPage: !tokens };
  if (last) {
    const { y, height } = await page.locator(last).boundingBox();
    options.clip = { x: 0, y: 0, width: viewport.width, height: Math.ceil(y + height + MARGIN) };
  }
  await page.screenshot(options);
  process.stdout.write(`${name}: ${page.problems.join("; ") || "no problem"}\n`);
  await page.context().close();
}

async function drawMock(browser, view) {
  const job = new MockJob(view.job);
  view.before?.(job);
  const mock = new MockCoordinator(job);
  mock.tokens = view.tokens ?? {};
  const page = await open(browser, (await mock.listen()) + (view.fragment ?? ""), view.browser);
  if (view.tokens) await page.waitForSelector("dialog[open]");
  else await hasFigures(page);
  if (view.isStale) {
    await mock.close();
    await page.waitForSelector("body.stale");
  } else mock.send();
  await draw(page, view);
  if (!view.isStale) await mock.close();
}

async function drawReal(browser, views) {
  const job = await RealJob.start();
  try {
    for (const view of views) {
      await job.until(view.settled);
      const page = await open(browser, job.url + (view.fragment ?? ""), view.browser);
      await hasFigures(page);
      await draw(page, view);
    }
  } finally {
    await job.close();
  }
}

fs.mkdirSync(folder, { recursive: true });
const browser = await launch();
for (const view of VIEWS.filter(isWanted)) await drawMock(browser, view);
const real = REAL_VIEWS.filter(isWanted);
if (real.length && missingPrograms()) process.stdout.write(`skipped: ${missingPrograms()}\n`);
else if (real.length) await drawReal(browser, real);
await browser.close();
