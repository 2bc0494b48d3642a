// Stories of a page and a mock coordinator: each has its own of both.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { FAILED_REQUEST, hasFigures, launch, open, whatIsMissing } from "./browser.mjs";
import { MockCoordinator } from "./mock_coordinator.mjs";
import { MockJob } from "./mock_job.mjs";

let browser = null;
const missing = whatIsMissing();
/** Options of a test that needs the browser. */
export const limits = { skip: missing || false, timeout: 110_000 };

before(async () => {
  if (!missing) browser = await launch();
});
after(() => browser?.close());

/** The browser of this file. */
export const theBrowser = () => browser;

/** Runs `tell` with a page that has its first figures.
 *  @param {object} options `job`: of the mock's job, `before`: what is done to the job, `mock`: to
 *  the mock, `fragment`: filters of the address, `browser`: options of the context,
 *  `skip`: why the story is left out, `isShut`: the page gets no figures, `mayFail`: requests of
 *  the page fail in the story */
export function story(name, options, tell) {
  test(name, { ...limits, skip: limits.skip || (options.skip ?? false) }, async () => {
    const job = new MockJob(options.job);
    options.before?.(job);
    const mock = new MockCoordinator(job);
    options.mock?.(mock);
    const url = await mock.listen();
    const page = await open(browser, null, options.browser);
    try {
      await options.open?.(page);
      await page.goto(url + (options.fragment ?? ""));
      if (!options.isShut) await hasFigures(page);
      await tell({ page, mock, job, url });
      const problems = page.problems.filter((text) =>
        !(options.mayFail && FAILED_REQUEST.test(text)));
      assert.deepEqual(problems, []);
    } finally {
      await page.context().close();
      await mock.close();
    }
  });
}
