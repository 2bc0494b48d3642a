// The modules of the page that need no browser: `node --test tests/page/*.test.mjs`.

import assert from "node:assert/strict";
import { test } from "node:test";
import { fragment } from "../../coordinator/page/address.js";
import { causeOf, isOfCause, listClasses } from "../../coordinator/page/classes.js";
import { EventParser } from "../../coordinator/page/feed.js";
import {
  clock, count, duration, percent, rate, several, size, tick,
} from "../../coordinator/page/format.js";
import {
  Model, decodePoints, decodeStates, decodeWnids, thinned,
} from "../../coordinator/page/model.js";
import { places } from "../../coordinator/page/quartiles.js";
import { isNamedAfterHost } from "../../coordinator/page/workers.js";
import { MockJob, encodePoints, encodeStates, encodeWnids } from "../browser/mock_job.mjs";

test("events are complete whatever the pieces of the stream are", () => {
  const stream = 'event: update\r\ndata: {"a":\ndata: 1}\n\n: a comment\n\nevent: snapshot\n' +
    "id: 7.2\ndata: {}\n\n";
  const wanted = [{ event: "update", data: '{"a":\n1}' }, { event: "snapshot", data: "{}" }];
  for (let cut = 1; cut < stream.length; cut += 1) {
    const parser = new EventParser();
    const events = [...parser.push(stream.slice(0, cut)), ...parser.push(stream.slice(cut))];
    assert.deepEqual(events, wanted, `cut at ${cut}`);
  }
});

test("class ids are differences in pairs of base-64 digits", () => {
  const wnids = ["n01451132", "n01452869", "n01452867", "", ""];
  assert.deepEqual(decodeWnids("x9LEbJ/+//AfAAAA"), wnids);
  assert.deepEqual(decodeWnids(""), []);
  for (const wnids of [["n02124075", "", "n01440764", "n15300051"],
    ["n00000000", "n99999999", "n00000031", "n00000063"], ["n99999999", "n00000000"]]) {
    assert.deepEqual(decodeWnids(encodeWnids(wnids)), wnids);
  }
});

test("states are runs", () => {
  assert.equal(decodeStates("12s2fr3w").join(""), "ssssssssssssffrwww");
  assert.deepEqual(decodeStates(""), []);
  for (const letters of ["srsfi", "w".repeat(30_000), "ss" + "r".repeat(10) + "d"]) {
    assert.equal(decodeStates(encodeStates([...letters])).join(""), letters);
  }
});

const snapshot = (states) => ({
  seq: 1, at_ms: 5, job: { total: 3 }, origin: { limit: 4 },
  classes: { wnids: "ACABAA", states }, history: { points: [[1, 10, 4, 1, 0]], marks: [] },
});

test("points of a snapshot are differences, those of an update are not", () => {
  const points = [[1_764_000_000_000, 5, 4, 3, 7], [1_764_000_015_000, null, 4, null, 9],
    [1_764_000_030_000, 6, 3, 5, 10]];
  const encoded = encodePoints(points);
  assert.deepEqual(encoded,
    [[1_764_000_000, 5, 4, 3, 7], [15, null, 0, null, 2], [15, 6, -1, 2, 1]]);
  assert.deepEqual(decodePoints(encoded), points);
  assert.deepEqual(decodePoints([]), []);
});

test("an update changes what it names and keeps the rest", () => {
  const model = new Model();
  model.snapshot(snapshot("wwi"), 10);
  const rows = model.update({
    seq: 2, at_ms: 6, job: { total: 3, success: 1 }, classes: { changes: [[1, "s"]] },
    history: { points: [[2, null, 4, 1, 1]], marks: [{ at_ms: 2, limit: 4, why: "first" }] },
  }, 11);
  assert.deepEqual(rows, [1]);
  assert.equal(model.states.join(""), "wsi");
  assert.deepEqual(model.tally, { w: 1, s: 1, f: 1 });
  assert.deepEqual([model.job.success, model.origin.limit, model.received], [1, 4, 11]);
  assert.deepEqual(model.points, [[1000, 10, 4, 1, 0], [2000, null, 4, 1, 1]]);
  assert.equal(model.marks.length, 1);
  assert.equal(model.rows.get("n00000002"), 1);
});

test("an update without classes and history changes no cell and no point", () => {
  const model = new Model();
  model.snapshot(snapshot("www"), 10);
  assert.deepEqual(model.update({ seq: 2, at_ms: 6 }, 12), []);
  assert.equal(model.points.length, 1);
});

test("updates give the same state as a snapshot after them", () => {
  const job = new MockJob({ classes: 400, workers: 3, settled: 0.2 });
  const [follower, late] = [new Model(), new Model()];
  follower.snapshot(job.snapshot(), 0);
  for (let second = 0; second < 60; second += 1) {
    job.step(5);
    follower.update(job.update(), second);
  }
  late.snapshot(job.snapshot(), 0);
  assert.deepEqual(follower.states, late.states);
  const present = (tally) => Object.entries(tally).filter(([, number]) => number > 0).sort();
  assert.deepEqual(present(follower.tally), present(late.tally));
});

test("a history of days stays bounded, keeps its newest point and its mean", () => {
  let points = [];
  for (let at = 0; at < 100_000; at += 1) points = thinned(points.concat([[at, 5, 1, 1, at]]));
  assert.ok(points.length <= 3_000, `${points.length} points`);
  assert.deepEqual(points.at(-1), [99_999, 5, 1, 1, 99_999]);
  assert.ok(points.every(([, bytes]) => bytes === 5));
  const times = points.map(([at]) => at);
  assert.deepEqual(times, [...times].sort((one, other) => one - other));
});

test("the marks of a long run are bounded and keep their numbers", () => {
  const model = new Model();
  model.snapshot(snapshot("www"), 0);
  for (let at = 0; at < 700; at += 1) {
    model.update({ at_ms: at, history: { points: [], marks: [{ at_ms: at, limit: 1 }] } }, 0);
  }
  assert.equal(model.marks.length, 500);
  assert.deepEqual([model.marks[0].number, model.marks.at(-1).number], [201, 700]);
});

test("figures are short, and exact at the ends", () => {
  const sizes = [0, 999, 1000, 12_345_678, 999_600_000].map(size);
  assert.deepEqual(sizes, ["0 B", "999 B", "1.0 kB", "12.3 MB", "1.0 GB"]);
  const parts = [[0, 0], [0, 5], [1, 21_843], [1, 3], [9_999, 10_000], [995, 1000], [7, 7]];
  assert.deepEqual(parts.map(([part, whole]) => percent(part, whole)),
    ["0 %", "0 %", "0.1 %", "33 %", "99.9 %", "99.5 %", "100 %"]);
  assert.deepEqual([59_000, 61_000, 600_000, 3_700_000, 90_000_000].map(duration),
    ["59 s", "1 min 1 s", "10 min", "1 h 1 min", "1 d 1 h"]);
  assert.deepEqual([several(1, "class"), several(21_843, "class"), several(2, "row")],
    ["1 class", "21,843 classes", "2 rows"]);
});

test("an unknown figure is no text and never a zero", () => {
  for (const show of [size, rate, count, duration]) {
    assert.deepEqual([show(null), show(undefined)], ["", ""]);
  }
});

test("times have seconds, and the day if it is another one", () => {
  const at = new Date(2026, 10, 30, 14, 2, 3).getTime();
  assert.equal(clock(at), "14:02:03");
  assert.equal(clock(new Date(2026, 10, 30).getTime()), "00:00:00");
  assert.match(clock(at, at + 2 * 86_400_000), /^.*30.*, 14:02:03$/);
  assert.deepEqual([tick(at, 1_000), tick(at, 60_000)], ["14:02:03", "14:02"]);
  assert.match(tick(at, 86_400_000), /30/);
});

test("a filter changes one part of the address", () => {
  const all = new URLSearchParams("states=f,r&worker=w1");
  assert.equal(fragment(all, { find: "n02124075" }), "states=f,r&worker=w1&find=n02124075");
  assert.equal(fragment(all, { states: "" }), "worker=w1");
  assert.equal(fragment(all, { states: "", worker: "" }), "");
  const name = "a b&c=#é";
  const address = fragment(new URLSearchParams(), { worker: name });
  assert.equal(new URLSearchParams(address).get("worker"), name);
});

test("a class belongs to its cause, whatever its URL or path is", () => {
  const missing = { kind: "HTTPError", message: "404 Client Error: Not Found" };
  const storage = { kind: "StorageError", message: "no space left in /one" };
  const reason = "404 Client Error: Not Found for url: https://origin/n1.tar";
  assert.ok(isOfCause(missing, { kind: "HTTPError", reason }));
  assert.ok(!isOfCause(missing, { kind: "HTTPError", reason: "403 Client Error: Forbidden" }));
  assert.ok(isOfCause(storage, { kind: "StorageError", reason: "no space left in /other" }));
  assert.ok(!isOfCause(storage, null));
  assert.equal(causeOf(missing), "HTTPError: 404 Client Error: Not Found");
  assert.equal(causeOf({ kind: "Timeout", message: "" }), "Timeout");
});

test("a list is asked for by page, ends when it is found, and sends the token", async (story) => {
  const wnids = Array.from({ length: 1_000 }, (_, row) => `n${String(row).padStart(8, "0")}`);
  const asked = [];
  story.mock.method(globalThis, "fetch", async (path, { headers }) => {
    const query = new URL(path, "http://mock").searchParams;
    asked.push(headers.authorization);
    const after = query.get("after") ?? "";
    const classes = wnids.filter((wnid) => wnid > after).slice(0, Number(query.get("limit")))
      .map((wnid) => ({ wnid }));
    return new Response(JSON.stringify({ total: wnids.length, classes }));
  });
  const whole = await listClasses("secret", { state: "f" });
  assert.deepEqual(whole.classes.map(({ wnid }) => wnid), wnids);
  assert.ok(whole.isWhole);
  assert.deepEqual(asked, new Array(6).fill("Bearer secret"));
  const part = await listClasses("", {}, ({ wnid }) => wnid.endsWith("0"), 15);
  assert.deepEqual([part.classes.length, part.isWhole], [20, false]);
});

test("the box plot has its figures in order and in its width", () => {
  assert.deepEqual(places([0, 25, 50, 75, 100]), [0, 250, 500, 750, 1000]);
  assert.deepEqual(places([0, 0, 0, 0, 0]), [0, 0, 0, 0, 0]);
});

test("a host is worth a column if the worker's name is another one", () => {
  const hosts = [["node1", "node1"], ["node1", null], ["node1", ""], ["node1", "rack1-node1"]];
  const told = hosts.map(([name, host]) => isNamedAfterHost({ name, host }));
  assert.deepEqual(told, [true, true, true, false]);
});
