// What holds for the page of any coordinator: `PAGE_URL=http://127.0.0.1:8080/` names a running
// one; without it the mock is looked at.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import {
  checkAccessibility, countsOf, hasFigures, launch, open, shownCounts, waitFor, whatIsMissing,
} from "./browser.mjs";
import { MockCoordinator } from "./mock_coordinator.mjs";
import { MockJob } from "./mock_job.mjs";

const missing = whatIsMissing();
const limits = { skip: missing || false, timeout: 60_000 };
let browser = null;
let mock = null;
let url = process.env.PAGE_URL ?? "";

before(async () => {
  if (missing) return;
  browser = await launch();
  if (url !== "") return;
  mock = new MockCoordinator(new MockJob({ classes: 300, workers: 3, settled: 0.5 }));
  url = await mock.listen();
  mock.run();
});
after(async () => {
  await browser?.close();
  await mock?.close();
});

const colours = [{ colorScheme: "light" }, { colorScheme: "dark" }];
for (const options of colours) {
  test(`the ${options.colorScheme} page has no error and no barrier`, limits, async () => {
    const page = await open(browser, url, options);
    await hasFigures(page);
    await checkAccessibility(page);
    assert.deepEqual(page.problems, []);
    await page.context().close();
  });
}

test("the page shows the counts of the API", limits, async () => {
  const page = await open(browser, url);
  await hasFigures(page);
  await waitFor("equal counts", async () => {
    const { job } = await (await fetch(new URL("api/v1/snapshot", url))).json();
    return { wanted: countsOf(job), shown: await shownCounts(page) };
  }, ({ wanted, shown }) => JSON.stringify(wanted) === JSON.stringify(shown));
  await page.context().close();
});

test("a filter's address survives a reload", limits, async () => {
  const page = await open(browser, url);
  await hasFigures(page);
  await page.getByRole("button", { name: /^Failed/ }).click();
  assert.equal(new URL(page.url()).hash, "#states=f");
  await page.reload();
  await hasFigures(page);
  await page.locator('#class-filter [aria-pressed="true"]', { hasText: "Failed" }).waitFor();
  await page.context().close();
});

test("the figures are live", limits, async () => {
  const page = await open(browser, url);
  await hasFigures(page);
  await waitFor("the age", () => page.innerText("#age"), (text) => /^live, [0-5] s/.test(text));
  await page.context().close();
});
