// The page of a real job: a coordinator, three workers and a slow origin, one after another in
// trouble. Each test goes on where the one before it ended.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { size } from "../../coordinator/page/format.js";
import {
  FAILED_REQUEST, checkAccessibility, countsOf, hasFigures, launch, open, shownCounts, waitFor,
  whatIsMissing,
} from "./browser.mjs";
import { Fleet, wnids } from "./fleet.mjs";
import { checkAge, missingPrograms, shell } from "./programs.mjs";
import { Proxy } from "./proxy.mjs";

const CLASSES = wnids(400);
const [MISSING, LATE, NEVER] = [CLASSES[1], CLASSES[4], CLASSES[7]];
const HTML = CLASSES[10];
const PREFIX = "/a/watch";
const PHONE = { width: 390, height: 844 };
const DESKTOP = { width: 1280, height: 900 };
/** A worker is lost 15 s after its last beat. */
const UNTIL_LOST = 40_000;
const UNTIL_DONE = 90_000;

const missing = whatIsMissing() || missingPrograms();
let browser = null;
let fleet = null;
let proxy = null;
/** The page at the coordinator's own port, and through the proxy below a path prefix. */
let page = null;
let behind = null;

before(async () => {
  if (missing) return;
  checkAge();
  fleet = new Fleet({
    classes: CLASSES, rows: ["cat"], args: ["--max-connections", "6"], rate: 60_000,
    images: (wnid) => 2 + 2 * Number(wnid.at(-1)),
  });
  fleet.origin.missing = new Set([MISSING, LATE, NEVER]);
  fleet.origin.pages.add(HTML);
  await fleet.start(["node1", "node2", "node3"], 4);
  proxy = new Proxy(fleet.url, PREFIX);
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await proxy?.close();
  await fleet?.close();
});

let isBroken = false;

/** A part of the story; after one that failed the rest is skipped. */
function part(name, tell) {
  test(name, { skip: missing || false, timeout: 110_000 }, async (context) => {
    if (isBroken) return context.skip("a part before it failed");
    isBroken = true;
    try {
      await tell();
      isBroken = false;
    } catch (error) {
      context.diagnostic(fleet.told());
      throw error;
    }
    return undefined;
  });
}

const text = (id, which = page) => which.innerText(id);
const settled = async (which = page) => Number((await text("#settled", which)).split(" ")[0]);
const figure = async (term) =>
  page.locator("#figures div", { has: page.getByText(term, { exact: true }) }).locator("dd").first()
    .innerText();
const group = (name, which = page) => which.locator(".group", { hasText: name });
const rowOf = (name) => page.locator("#worker-table tbody tr", { hasText: name });
const stateOf = (name) => rowOf(name).locator("td").first().innerText();
const total = (counts) => Object.values(counts).reduce((sum, one) => sum + one, 0);

/** Classes go on to be settled, and the page shows it. */
async function moves(which = page) {
  const from = await settled(which);
  await waitFor("more settled classes", () => settled(which), (now) => now > from + 2);
}

/** No error in the console, apart from requests that failed because the story broke them. */
function hasNoProblem(which, mayFail = false) {
  const problems = which.problems.filter((one) => !(mayFail && FAILED_REQUEST.test(one)));
  assert.deepEqual(problems, []);
}

async function hasNoBarrier(which) {
  for (const colorScheme of ["dark", "light"]) {
    await which.emulateMedia({ colorScheme });
    await checkAccessibility(which);
  }
}

part("the figures of a job are there from its first seconds, and move", async () => {
  page = await open(browser, fleet.url);
  await hasFigures(page);
  await waitFor("received bytes", () => figure("Received"), (now) => !/^(0 B)?$/.test(now));
  await waitFor("a transfer with bytes", () => page.locator("#transfer-table tbody tr")
    .allInnerTexts(), (rows) => rows.some((row) => /[1-9][\d.]* kB of [\d.]+ kB/.test(row)));
  const { received_bytes: received } = await fleet.status();
  assert.ok(received > 0, "coordinator status has received bytes too");
  await moves();
  assert.equal(await rowOf("node").count(), 3);
  assert.match(await text("#age"), /^live, [0-5] s old$/);
  hasNoProblem(page);
});

part("a slot that waits says for what", async () => {
  await waitFor("a reason", () => text("#worker-table"),
    (now) => /waits: limit of [1-6] connections/.test(now));
});

part("failures are grouped with their reasons", async () => {
  await waitFor("three missing classes", () => group("404 Client Error").innerText(),
    (now) => /^3\s+HTTPError: 404 Client Error/.test(now));
  await waitFor("a page instead of a tar", () => group("NotATar").innerText(),
    (now) => /^1\s+NotATar: not a tar, it looks like an HTML page/.test(now));
  assert.match(await text("#invalid-rows"), /^1 row of the list without a class id/);
  await group("404 Client Error").locator("summary").click();
  await waitFor("its classes", () => group("404 Client Error").innerText(),
    (now) => [MISSING, LATE, NEVER].every((wnid) => now.includes(wnid)) && /node[123]/.test(now));
});

part("a killed worker and a stopped one turn silent, while the job goes on", async () => {
  fleet.workers.get("node1").signal("SIGKILL");
  fleet.workers.get("node2").signal("SIGSTOP");
  for (const name of ["node1", "node2"]) {
    await waitFor(`${name} is silent`, () => stateOf(name), (now) => /^silent since /.test(now));
  }
  assert.match(await stateOf("node3"), /^active/);
  assert.match(await rowOf("node").last().innerText(), /node3/);
  const { workers } = await fleet.status();
  const silent = workers.filter(({ state }) => state === "silent").map(({ name }) => name);
  assert.deepEqual(silent.sort(), ["node1", "node2"]);
});

part("axe finds no barrier, at any width and in both colours", async () => {
  await hasNoBarrier(page);
  await page.setViewportSize(PHONE);
  await hasNoBarrier(page);
  await page.setViewportSize(DESKTOP);
});

part("silent workers are lost, and the one that was only stopped comes back", async () => {
  for (const name of ["node1", "node2"]) {
    await waitFor(`${name} is lost`, () => stateOf(name), (now) => /^lost since /.test(now),
      UNTIL_LOST);
  }
  await moves();
  fleet.workers.get("node2").signal("SIGCONT");
  await waitFor("node2 is back", () => stateOf("node2"), (now) => /^active/.test(now), UNTIL_LOST);
  assert.match(await stateOf("node1"), /^lost since /);
});

part("the command of a failure works in a shell as it is shown", async () => {
  const command = await group("404 Client Error").locator("code").innerText();
  for (const wnid of [MISSING, LATE, NEVER]) assert.ok(command.includes(wnid), command);
  assert.ok(!command.includes(HTML), command);
  fleet.origin.missing.delete(MISSING);
  const output = await shell(command);
  assert.equal(output, "3 failed classes are tried again\n");
  await waitFor("two are missing again", () => group("404 Client Error").innerText(),
    (now) => /^2\s/.test(now) && !now.includes(MISSING));
});

part("the button retries the classes of one cause, after asking", async () => {
  fleet.origin.missing.delete(LATE);
  await group("404 Client Error").getByRole("button", { name: "Retry …" }).click();
  await page.getByRole("button", { name: "Retry", exact: true }).click();
  await page.getByText("2 classes will be tried again.").waitFor();
  await waitFor("one is missing again", () => group("404 Client Error").innerText(),
    (now) => /^1\s/.test(now) && now.includes(NEVER) && !now.includes(LATE));
  assert.equal(await group("NotATar").count(), 1);
});

part("a filter's address survives a reload", async () => {
  await page.getByRole("button", { name: /^Failed/ }).click();
  await page.getByRole("button", { name: "Last 10 min" }).click();
  await page.fill("#class-search", NEVER);
  await page.press("#class-search", "Enter");
  const address = page.url();
  assert.match(address, /#cause=HTTPError.*&states=f&range=10m&find=n\d{8}$/);
  await page.reload();
  await hasFigures(page);
  assert.equal(page.url(), address);
  await page.locator('#class-filter [aria-pressed="true"]', { hasText: "Failed" }).waitFor();
  await waitFor("the class", () => text("#class-detail"),
    (now) => now.startsWith(`${NEVER}: Failed, 3 attempts, HTTPError: 404 Client Error`));
  await page.locator(".group[open]", { hasText: "404 Client Error" }).waitFor();
  await rowOf("node3").getByRole("link").click();
  await page.reload();
  await hasFigures(page);
  assert.match(page.url(), /&worker=node3$/);
  await waitFor("its row alone", () => page.locator("#worker-table tbody th").allInnerTexts(),
    (names) => names.join() === "node3");
  await page.getByRole("button", { name: "Worker node3: end this filter" }).click();
  await waitFor("all rows", () => rowOf("node").count(), (rows) => rows === 3);
  hasNoProblem(page);
});

part("behind a proxy with a path prefix, a stream that is cut comes back", async () => {
  behind = await open(browser, await proxy.listen());
  await hasFigures(behind);
  await moves(behind);
  hasNoProblem(behind);
  proxy.cut();
  await behind.waitForSelector("body.stale");
  assert.match(await text("#stale", behind), /^Stale\. These figures are \d+ s old: .*again/);
  const before = await settled(behind);
  await moves();
  assert.equal(await settled(behind), before);
  proxy.isDown = false;
  await behind.waitForSelector("body:not(.stale)");
  assert.match(await text("#age", behind), /^live, [0-5] s old$/);
  await moves(behind);
});

part("an origin that asks to wait is named", async () => {
  fleet.origin.retryAfter = 5;
  fleet.origin.refusals = 1;
  await waitFor("the reason", () => text("#state"),
    (now) => /^no requests until \d\d:\d\d:\d\d: the origin answered 429/.test(now));
  await moves();
});

part("after a coordinator was killed, the page of the next one knows the history", async () => {
  const { history, epoch } = await fleet.snapshot();
  fleet.coordinator.signal("SIGKILL");
  await fleet.coordinator.ended();
  await page.waitForSelector("body.stale");
  const killed = Date.now();
  await fleet.startCoordinator();
  await page.waitForSelector("body:not(.stale)");
  await waitFor("its number", () => text("#about"), (now) => now.endsWith(`start ${epoch + 1}`));
  const next = (await fleet.snapshot()).history;
  const begins = ({ points: [[first]] }) => first * 1000;
  assert.ok(begins(next) < killed - 20_000, "the history begins before the restart");
  assert.ok(begins(next) >= begins(history) - 60_000, "and not before the job");
  assert.match(await page.getAttribute("#chart-rate", "aria-label"),
    /^Throughput and connections over \d+ min/);
  await moves();
  await moves(behind);
});

part("page, status, metrics and the table have the same counts at the end", async () => {
  fleet.origin.release();
  for (const which of [page, behind]) {
    await waitFor("the end", () => text("#state", which), (now) => now === "finished", UNTIL_DONE);
  }
  const status = await fleet.status();
  const wanted = countsOf(status);
  assert.deepEqual(wanted, { success: CLASSES.length - 2, skipped: 0, failed: 3, running: 0,
    waiting: 0 });
  assert.equal(total(wanted), status.total);
  for (const which of [page, behind]) assert.deepEqual(await shownCounts(which), wanted);
  const { job, failures } = await fleet.snapshot();
  assert.deepEqual(countsOf(job), wanted);
  assert.deepEqual([failures.total, failures.invalid_rows], [2, 1]);
  const metric = await fleet.metrics();
  const states = ["success", "skipped", "failed", "leased", "pending"]
    .map((state) => [state, metric(`classes{state="${state}"}`)]);
  assert.deepEqual(countsOf(Object.fromEntries(states)), wanted);
  assert.equal(metric("job_classes"), status.total);
  assert.equal(metric("received_bytes_total"), status.received_bytes);
  assert.equal(job.received_bytes, status.received_bytes);
  assert.equal(await figure("Received"), size(status.received_bytes));
  await hasNoBarrier(page);
  fleet.coordinator.signal("SIGTERM");
  assert.equal(await fleet.coordinator.ended(), 1);
  const rows = { success: "✓ Success: ", skipped: "⊘ Skipped: ", failed: "✗ Failed:  " };
  for (const [state, row] of Object.entries(rows)) {
    assert.ok(fleet.coordinator.output.includes(`\n${row}${wanted[state]}\n`),
      fleet.coordinator.output);
  }
  assert.ok(fleet.coordinator.output.includes(`\nTotal:     ${status.total}\n`));
  for (const which of [page, behind]) hasNoProblem(which, true);
});
