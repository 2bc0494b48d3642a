// A tab of a browser that no debugger is attached to: a debugger keeps what the page receives.

import { spawn } from "node:child_process";
import fs from "node:fs";
import { rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { ARGUMENTS, CHROMIUM, connect, waitFor } from "./browser.mjs";

export class Tab {
  #process;
  #profile;

  constructor(url) {
    this.#profile = fs.mkdtempSync(path.join(os.tmpdir(), "tab-"));
    this.#process = spawn(CHROMIUM, [...ARGUMENTS, "--headless", "--window-size=1280,900",
      "--remote-debugging-port=0", `--user-data-dir=${this.#profile}`, url], { stdio: "ignore" });
  }

  /** @returns {number} proportional set size of the largest renderer, in bytes */
  memory() {
    const sizes = this.#renderers().map((pid) => {
      const rollup = fs.readFileSync(`/proc/${pid}/smaps_rollup`, "utf8");
      return Number(/^Pss:\s+(\d+)/m.exec(rollup)[1]) * 1024;
    });
    return Math.max(...sizes);
  }

  #renderers() {
    return this.#below().filter((pid) =>
      fs.readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("--type=renderer"));
  }

  /** The browser's process and all below it. */
  #below() {
    const parents = new Map();
    for (const name of fs.readdirSync("/proc").filter((entry) => /^\d+$/.test(entry))) {
      try {
        const [, parent] = /\) \S (\d+)/.exec(fs.readFileSync(`/proc/${name}/stat`, "utf8"));
        parents.set(Number(name), Number(parent));
      } catch {
        // The process has ended.
      }
    }
    const isBelow = (pid) => pid === this.#process.pid ||
      (parents.has(pid) && isBelow(parents.get(pid)));
    return [...parents.keys()].filter(isBelow);
  }

  /** Attaches a debugger. @returns {Promise<import("playwright-core").Page>} */
  async attach() {
    const file = path.join(this.#profile, "DevToolsActivePort");
    const port = await waitFor("the port", () =>
      fs.existsSync(file) && fs.readFileSync(file, "utf8").split("\n")[0]);
    const browser = await connect(`http://127.0.0.1:${port}`);
    const [page] = browser.contexts()[0].pages();
    return page;
  }

  /** Ends the browser and removes its profile. */
  async close() {
    const all = this.#below();
    for (const pid of all) stop(pid);
    const running = () => all.filter((pid) => fs.existsSync(`/proc/${pid}`));
    await waitFor("the end of the browser", running, (left) => left.length === 0);
    await rm(this.#profile, { recursive: true, force: true, maxRetries: 10 });
  }
}

function stop(pid) {
  try {
    process.kill(pid);
  } catch {
    // The process has ended.
  }
}
