// Filters have an address; links lead from a failure to its cells and its worker; keys do what the
// pointer does.

import assert from "node:assert/strict";
import { hasFigures, waitFor } from "./browser.mjs";
import { story } from "./stories.mjs";

const MANY = { classes: 3_000, workers: 450, settled: 0.5 };
const FEW = { classes: 1_000, workers: 12, settled: 0.55 };
const SEARCH = "#class-search";

const pressed = (page) => page.locator('[aria-pressed="true"]').allInnerTexts();
const words = (texts) => texts.map((text) => text.replace(/\s*[\d,]+$/, "").trim());
const hash = (page) => page.evaluate("decodeURIComponent(location.hash)");

story("filters are in the address and survive a reload", { job: MANY }, async ({ page }) => {
  await page.getByRole("button", { name: /^Failed/ }).click();
  await page.getByRole("button", { name: "Last 10 min" }).click();
  await page.getByRole("button", { name: /^All/ }).click();
  await page.selectOption("#worker-sort", "name");
  await page.fill("#worker-search", "node-04");
  await page.fill(SEARCH, "n01444538");
  await page.press(SEARCH, "Enter");
  const address = "#states=f&range=10m&workers=all&sort=name&wfind=node-04&find=n01444538";
  await waitFor("the address", () => hash(page), (text) => text === address);
  await page.reload();
  await hasFigures(page);
  await waitFor("the filtered rows", () => page.locator("#worker-table tbody tr").count(),
    (rows) => rows === 50);
  assert.deepEqual(words(await pressed(page)), ["Last 10 min", "Failed", "All"]);
  assert.equal(await page.inputValue("#worker-search"), "node-04");
  assert.equal(await page.inputValue("#worker-sort"), "name");
  assert.equal(await page.inputValue(SEARCH), "n01444538");
  await waitFor("the class", () => page.innerText("#class-detail"),
    (text) => text.includes("n01444538: Failed, HTTPError: 404 Client Error"));
  await page.goBack();
  await waitFor("the entry before", () => hash(page), (text) => text.endsWith("wfind=node-04"));
});

story("a failure leads to its cells in the map and to its worker", { job: FEW },
  async ({ page }) => {
    await page.locator("summary", { hasText: "404 Client Error" }).click();
    const group = page.locator(".group[open]");
    await waitFor("the rows", () => group.locator("tbody tr").count(), (rows) => rows === 5);
    assert.match(await hash(page), /^#cause=HTTPError:\+404/);
    const drawn = () => page.evaluate(() => {
      const map = document.getElementById("map");
      const { data } = map.getContext("2d").getImageData(0, 0, map.width, map.height);
      let opaque = 0;
      for (let place = 3; place < data.length; place += 4) opaque += data[place] === 255 ? 1 : 0;
      return opaque;
    });
    const side = 20;
    await waitFor("five cells in full colour", drawn,
      (pixels) => pixels > 4 * side * side * 0.7 && pixels < 6 * side * side * 1.3);
    await group.getByRole("link", { name: "n01444538" }).click();
    assert.match(await hash(page), /find=n01444538/);
    await waitFor("the class", () => page.innerText("#class-detail"),
      (text) => text.startsWith("n01444538: Failed"));
    await page.locator("#worker-of-class a").click();
    const worker = await page.innerText("#worker-table tbody th");
    assert.match(await hash(page), new RegExp(`worker=${worker}`));
    await waitFor("its row alone", () => page.locator("#worker-table tbody tr").count(),
      (rows) => rows === 1);
    await waitFor("its transfers", () => page.innerText("#transfer-summary"),
      (text) => text === `8 classes of ${worker}`);
    await page.getByRole("button", { name: `Worker ${worker}: end this filter` }).click();
    await waitFor("all rows", () => page.locator("#worker-table tbody tr").count(),
      (rows) => rows === 10);
  });

story("the keys move in the map and keep a class", { job: FEW }, async ({ page }) => {
  const told = (text) => waitFor("the class", () => page.innerText("#class-detail"),
    (now) => now.startsWith(text));
  await page.focus("#map");
  await page.keyboard.press("ArrowRight");
  await told("n01440764: Skipped");
  await page.keyboard.press("ArrowRight");
  await told("n01440801: Skipped");
  await page.keyboard.press("End");
  await told("n01477727: Waiting");
  await page.keyboard.press("Home");
  await page.keyboard.press("n");
  await told("n01444538: Failed");
  await page.keyboard.press("p");
  await told("n01458894: Failed");
  await page.keyboard.press("Enter");
  assert.equal(await hash(page), "#find=n01458894");
  await page.keyboard.press("Escape");
  assert.equal(await hash(page), "");
});

story("the first keys lead past the header, and each step shows its focus", { job: FEW },
  async ({ page }) => {
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate("document.activeElement.textContent"),
      "Skip to the failures");
    await page.keyboard.press("Enter");
    assert.equal(await page.evaluate("document.activeElement.id"), "failures");
    assert.equal(await hash(page), "");
    for (let step = 0; step < 25; step += 1) {
      await page.keyboard.press("Tab");
      const width = await page.evaluate("getComputedStyle(document.activeElement).outlineWidth");
      const name = await page.evaluate("document.activeElement.outerHTML.slice(0, 80)");
      assert.equal(width, "3px", name);
    }
  });

story("a class that is not in the list is said to be none", {}, async ({ page }) => {
  await page.fill(SEARCH, " N09999999 ");
  await page.press(SEARCH, "Enter");
  await waitFor("the answer", () => page.innerText("#class-detail"),
    (text) => text === "n09999999 is not in the list of this job.");
});

story("a long list of workers has pages", { job: MANY }, async ({ page, mock }) => {
  await page.getByRole("button", { name: /^All/ }).click();
  const rows = () => page.locator("#worker-table tbody tr").count();
  await waitFor("a page", rows, (number) => number === 200);
  await page.getByRole("button", { name: "Next" }).click();
  await page.getByRole("button", { name: "Next" }).click();
  await waitFor("the last page", () => page.innerText("#worker-rest"),
    (text) => text === "401 to 450 of 450");
  assert.equal(await rows(), 50);
  assert.equal(await page.getByRole("button", { name: "Next" }).count(), 0);
  mock.job.setWorker("node-0123", { state: "silent" });
  mock.send();
  await page.getByRole("button", { name: /^In trouble/ }).click();
  await waitFor("the silent worker", rows, (number) => number === 1);
  assert.match(await page.innerText("#worker-table tbody tr"), /node-0123\s+silent since/);
});

story("a mark on the chart says why the limit changed", { job: FEW }, async ({ page }) => {
  await waitFor("the chart", () => page.locator("#chart-rate .u-over").count());
  assert.match(await page.innerText("#marks-list"),
    /2\s*\d\d:\d\d:\d\d\s*the origin broke 14 connections together/);
  const box = await page.locator("#chart-rate .u-over").boundingBox();
  await page.locator("#chart-rate .u-over").hover({ position: {
    x: box.width * 0.3125, y: box.height / 2 } });
  await waitFor("the reason", () => page.innerText("#chart-note"),
    (text) => /^2 at .*: the origin broke 14 connections together/.test(text));
});
