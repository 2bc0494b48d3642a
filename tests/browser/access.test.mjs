// Tokens and retries: a viewer's token looks, an admin's retries, after a question.

import assert from "node:assert/strict";
import { hasFigures, waitFor } from "./browser.mjs";
import { story } from "./stories.mjs";

const JOB = { classes: 1_000, workers: 6, settled: 0.55 };
const TOKENS = { look: "viewer", all: "admin" };
const RETRY = "Retry …";

async function give(page, token) {
  await page.fill("#token", token);
  await page.getByRole("button", { name: "Show", exact: true }).click();
}

const group = (page, text) => page.locator("summary", { hasText: text }).click();

story("without a token the page asks for one, and says when it is refused", {
  job: JOB, isShut: true, mayFail: true, mock: (mock) => { mock.tokens = TOKENS; },
}, async ({ page }) => {
  await page.getByRole("dialog", { name: "Access" }).waitFor();
  assert.match(await page.innerText("#access-why"), /token of a viewer or an admin/);
  await page.keyboard.press("Escape");
  await page.getByRole("dialog", { name: "Access" }).waitFor();
  await give(page, "wrong");
  await page.getByText("The coordinator refuses this token.").waitFor();
  await give(page, "look");
  await hasFigures(page);
  assert.equal(await page.locator("dialog[open]").count(), 0);
  await page.reload();
  await hasFigures(page);
  assert.equal(await page.evaluate("localStorage.length"), 0);
});

story("a viewer cannot retry, and an admin's token can be given", {
  job: JOB, isShut: true, mayFail: true, mock: (mock) => { mock.tokens = TOKENS; },
}, async ({ page, mock }) => {
  await give(page, "look");
  await hasFigures(page);
  await group(page, "StorageError");
  await page.locator(".group[open] code").waitFor();
  assert.equal(await page.getByRole("button", { name: RETRY }).count(), 0);
  await page.getByRole("button", { name: "Use an admin's token …" }).click();
  await give(page, "all");
  await page.getByRole("button", { name: RETRY }).click();
  await page.getByRole("button", { name: "Retry", exact: true }).click();
  await page.getByText("2 classes will be tried again.").waitFor();
  assert.deepEqual(mock.job.retried, [["n01448164", "n01448201"]]);
});

story("a retry asks before, names its classes, and tells what came of it", { job: JOB },
  async ({ page, mock }) => {
    await group(page, "404 Client Error");
    const command = page.locator(".group[open] code");
    const ids = "n01444538 n01448127 n01451716 n01455305 n01458894";
    assert.equal(await command.innerText(),
      `coordinator retry --connect http://127.0.0.1:50051 ${ids}`);
    await page.getByRole("button", { name: RETRY }).click();
    const dialog = page.getByRole("dialog", { name: "Retry failed classes?" });
    assert.match(await dialog.innerText(), /HTTPError: 404.*leases the 5 classes of this cause/s);
    assert.equal(await page.evaluate("document.activeElement.value"), "cancel");
    await page.keyboard.press("Escape");
    await dialog.waitFor({ state: "hidden" });
    assert.deepEqual(mock.job.retried, []);
    await page.getByRole("button", { name: RETRY }).click();
    await page.getByRole("button", { name: "Retry", exact: true }).click();
    await page.getByText("5 classes will be tried again.").waitFor();
    assert.deepEqual(mock.job.retried, [ids.split(" ")]);
    mock.send();
    await waitFor("the group is gone", () => page.locator(".group").count(), (now) => now === 1);
    await waitFor("the legend", () => page.innerText("#class-filter"),
      (text) => /Waiting for a retry\s*5/.test(text));
  });

story("a retry that fails says why", { job: JOB, mayFail: true }, async ({ page, mock }) => {
  await group(page, "StorageError");
  await page.getByRole("button", { name: RETRY }).waitFor();
  mock.tokens = TOKENS;
  await page.getByRole("button", { name: RETRY }).click();
  await page.getByRole("button", { name: "Retry", exact: true }).click();
  await page.getByText("Not retried: send the token of a viewer or an admin").waitFor();
});

story("the command is copied", { job: JOB, browser: { permissions: ["clipboard-write",
  "clipboard-read"] } }, async ({ page }) => {
  await group(page, "StorageError");
  await page.getByRole("button", { name: "Copy" }).click();
  await page.getByText("The command is copied.").waitFor();
  assert.equal(await page.evaluate("navigator.clipboard.readText()"),
    "coordinator retry --connect http://127.0.0.1:50051 n01448164 n01448201");
});
