// Debian's Chromium, and what every view of the page is checked for.

import assert from "node:assert/strict";
import fs from "node:fs";
import { createRequire } from "node:module";

export const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
export const ARGUMENTS = [
  "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
];
/** What Chromium logs when a request fails; where a story breaks connections, such an error is the
 *  story's and not the page's. */
export const FAILED_REQUEST = /^Failed to load resource/;
/** For how long a test waits for a state of the page, in milliseconds. */
export const STATE_TIMEOUT = 20_000;

/** Why the tests cannot run here; "" if they can. */
export function whatIsMissing() {
  if (Number(process.versions.node.split(".")[0]) < 20) return "node is older than version 20";
  if (!fs.existsSync(CHROMIUM)) return `${CHROMIUM} is not there (apt install chromium)`;
  try {
    createRequire(import.meta.url).resolve("playwright-core");
  } catch {
    return "playwright-core is not there (npm ci --prefix tests/browser)";
  }
  return "";
}

/** @returns {Promise<import("playwright-core").Browser>} */
export async function launch() {
  const { chromium } = await import("playwright-core");
  return chromium.launch({ executablePath: CHROMIUM, args: ARGUMENTS });
}

/** Connects to a browser that runs already. */
export async function connect(endpoint) {
  const { chromium } = await import("playwright-core");
  return chromium.connectOverCDP(endpoint);
}

/** A page that collects its console's errors and warnings in `page.problems`.
 *  @param {object} options of a browser context of Playwright */
export async function open(browser, url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(STATE_TIMEOUT);
  page.problems = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) page.problems.push(message.text());
  });
  page.on("pageerror", (error) => page.problems.push(String(error)));
  if (url) await page.goto(url);
  return page;
}

/** The counts that the page shows, by state. @returns {Promise<Record<string, number>>} */
export async function shownCounts(page) {
  const items = await page.locator("#counts li").evaluateAll((all) => all.map((item) =>
    [item.querySelector("a").textContent.toLowerCase(), item.querySelector("b").textContent]));
  return Object.fromEntries(items.map(([name, text]) => [name, Number(text.replaceAll(",", ""))]));
}

/** The counts of an API's `Job` or of `coordinator status --json`, under the page's names. */
export const countsOf = ({ success, skipped, failed, leased: running, pending: waiting }) =>
  ({ success, skipped, failed, running, waiting });

/** Waits until the page has figures. */
export const hasFigures = (page) => page.waitForSelector("#content:not([hidden]) #counts li");

/** Waits until `read` gives a value that `fits`; the message has the last one. */
export async function waitFor(what, read, fits = Boolean, timeout = STATE_TIMEOUT) {
  const deadline = Date.now() + timeout;
  for (;;) {
    const value = await read();
    if (fits(value)) return value;
    if (Date.now() > deadline) assert.fail(`${what}: still ${JSON.stringify(value)}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Lays out what is out of view too; otherwise it has no contrast and no picture. */
export const layOut = (page) => page.evaluate(() => {
  for (const one of document.querySelectorAll("section")) one.style.contentVisibility = "visible";
});

/** Fails on each finding of axe that is serious or critical.
 *  @returns {Promise<string[]>} the others */
export async function checkAccessibility(page) {
  const axe = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
  const source = fs.readFileSync(axe, "utf8");
  await layOut(page);
  const violations = await page.evaluate(`(async () => { ${source}
    ; const found = await axe.run(); return found.violations.map((one) => ({
      impact: one.impact, text: one.id + ": " + one.nodes.map((node) => node.html.slice(0, 200) +
        " " + node.failureSummary).join("; ") })); })()`);
  const severe = violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
  assert.deepEqual(severe.map(({ text }) => text), []);
  return violations.map(({ text }) => text);
}
