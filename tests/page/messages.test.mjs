// The page reads the messages of the coordinator: those in `messages.jsonl` are written by the
// coordinator's test `the_page_is_tested_with_the_messages_of_this_version`.

import assert from "node:assert/strict";
import fs from "node:fs";
import { test } from "node:test";
import { sentence } from "../../coordinator/page/job.js";
import { clock } from "../../coordinator/page/format.js";
import { Model } from "../../coordinator/page/model.js";

const lines = fs.readFileSync(new URL("messages.jsonl", import.meta.url), "utf8").trim();
const messages = lines.split("\n").map((line) => JSON.parse(line));

test("a page that follows the updates shows what one shows that is opened later", () => {
  const follower = new Model();
  follower.snapshot(messages[0].snapshot, 0);
  assert.equal(follower.states.length, 13);
  assert.equal(follower.rows.size, 12, "one row has no class id");
  for (const { snapshot, update } of messages.slice(1)) {
    follower.update(update, 0);
    const late = new Model();
    late.snapshot(snapshot, 0);
    assert.deepEqual(follower.states, late.states);
    const present = ({ tally }) => Object.entries(tally).filter(([, many]) => many > 0).sort();
    assert.deepEqual(present(follower), present(late));
    for (const part of ["job", "state", "origin", "workers", "transfers", "failures", "seq",
      "at_ms", "command"]) {
      assert.deepEqual(follower[part], late[part], part);
    }
  }
});

test("points of updates continue those of the snapshot", () => {
  const [follower, late] = [new Model(), new Model()];
  follower.snapshot(messages[0].snapshot, 0);
  for (const { update } of messages.slice(1)) follower.update(update, 0);
  late.snapshot(messages.at(-1).snapshot, 0);
  assert.ok(late.points.length > 2);
  assert.deepEqual(follower.points, late.points);
  assert.equal(late.points.at(-1)[0], messages.at(-1).snapshot.at_ms - 1000);
});

test("the time in a sentence is the viewer's local time", () => {
  const until = Date.UTC(2026, 0, 1, 12, 0, 0);
  const state = { phase: "running", until_ms: until,
    sentence: "no requests until {until}: the origin answered 429 or 503 and asked to wait" };
  const shown = sentence(state, {}, until - 5000);
  assert.equal(shown, state.sentence.replace("{until}", clock(until)));
  assert.ok(!shown.includes("{"), shown);
  assert.equal(sentence({ ...state, sentence: "" }, {}, until), "running");
});
