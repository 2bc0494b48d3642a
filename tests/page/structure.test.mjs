// The page's modules import one way, are short, and need nothing from another host.

import assert from "node:assert/strict";
import fs from "node:fs";
import { test } from "node:test";

const PAGE = new URL("../../coordinator/page/", import.meta.url);
const VENDORED = /^uplot\./;
const LONGEST_FILE = 400;
const LONGEST_LINE = 100;

const read = (name) => fs.readFileSync(new URL(name, PAGE), "utf8");
const own = fs.readdirSync(PAGE).filter((name) => !VENDORED.test(name));
const modules = own.filter((name) => name.endsWith(".js"));
const texts = own.filter((name) => !name.endsWith(".svg"));

test("files and lines are short", () => {
  assert.ok(modules.length > 10);
  for (const name of texts) {
    const lines = read(name).split("\n");
    assert.ok(lines.length <= LONGEST_FILE, name);
    const long = lines.findIndex((line) => [...line].length > LONGEST_LINE);
    assert.equal(long, -1, `${name}:${long + 1}`);
  }
});

test("imports run one way, and every module is imported", () => {
  const imports = new Map(modules.map((name) =>
    [name, [...read(name).matchAll(/from "\.\/([\w.]+)"/g)].map(([, other]) => other)]));
  const follow = (name, path) => {
    assert.ok(!path.includes(name), [...path, name].join(" → "));
    for (const other of imports.get(name)) follow(other, [...path, name]);
  };
  follow("app.js", []);
  const imported = new Set([...imports.values()].flat());
  const unused = modules.filter((name) => name !== "app.js" && !imported.has(name));
  assert.deepEqual(unused, []);
});

test("the page names its own files only, and has no script or style of its own inside", () => {
  const html = read("index.html");
  const named = [...html.matchAll(/(?:href|src)="([^"#]+)"/g)].map(([, name]) => name);
  assert.deepEqual(named.filter((name) => !fs.existsSync(new URL(name, PAGE))), []);
  assert.doesNotMatch(html, /<style|<script>|\sstyle=|\son\w+=/);
  for (const name of modules) {
    const code = read(name).replace(/\/\/.*|\/\*[^]*?\*\//g, "");
    assert.doesNotMatch(code, /https?:|innerHTML|outerHTML|insertAdjacentHTML|\beval\b/, name);
  }
});
