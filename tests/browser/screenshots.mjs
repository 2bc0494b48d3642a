// Draws every view of the page of the mock coordinator.
//
//     node tests/browser/screenshots.mjs [FOLDER [NAME …]]

import fs from "node:fs";
import { hasFigures, launch, layOut, open, waitFor } from "./browser.mjs";
import { MockCoordinator } from "./mock_coordinator.mjs";
import { MockJob } from "./mock_job.mjs";
import { VIEWS } from "./views.mjs";

const [folder = "target/screenshots", ...names] = process.argv.slice(2);
fs.mkdirSync(folder, { recursive: true });
const browser = await launch();
for (const view of VIEWS) {
  if (names.length && !names.includes(view.name)) continue;
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
  } else {
    mock.send();
    await page.waitForLoadState("networkidle", { timeout: 1_500 }).catch(() => {});
    await waitFor("fonts", () => page.evaluate("document.fonts.status"), (is) => is === "loaded");
  }
  await layOut(page);
  const fullPage = !view.tokens && !view.isFold;
  await page.screenshot({ path: `${folder}/${view.name}.png`, fullPage });
  process.stdout.write(`${view.name}: ${page.problems.join("; ") || "no problem"}\n`);
  await page.context().close();
  if (!view.isStale) await mock.close();
}
await browser.close();
