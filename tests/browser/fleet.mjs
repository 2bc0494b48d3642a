// A job of the real programs: a coordinator and workers, each with its own folder, and a slow
// origin.

import fs from "node:fs";
import { rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { waitFor } from "./browser.mjs";
import { Program, shell } from "./programs.mjs";
import { SlowOrigin } from "./slow_origin.mjs";

/** A worker is lost 10 s after the end of its leases, and silent some seconds before. */
const LEASE_TTL = "5s";
const ANY_PORT = "127.0.0.1:0";

/** The class ids of a job, in the order of the list. @returns {string[]} */
export const wnids = (number) =>
  Array.from({ length: number }, (_, row) => `n${String(1_440_764 + 37 * row).padStart(8, "0")}`);

export class Fleet {
  /** Workers by name. */
  workers = new Map();
  #folder = fs.mkdtempSync(path.join(os.tmpdir(), "fleet-"));
  #args = [];
  /** The addresses that the first coordinator got: the next one listens there again. */
  #listen = ANY_PORT;
  #http = ANY_PORT;
  #programs = [];

  /** @param {{classes: string[], rows: string[], args: string[], rate: number,
   *           images: (wnid: string) => number}} options `rows`: further rows of the list,
   *  `args`: of the coordinator, `rate` and `images`: of the origin */
  constructor({ classes, rows = [], args = [], ...origin }) {
    this.origin = new SlowOrigin(origin);
    this.target = path.join(this.#folder, "coordinator's target");
    fs.mkdirSync(this.target);
    const list = path.join(this.#folder, "data.csv");
    fs.writeFileSync(list, `${["wnid", ...classes, ...rows].join("\n")}\n`);
    this.#args = ["--fname", list, "--target", this.target, "--lease-ttl", LEASE_TTL, "--stay",
      "--delete-tar", "--durability", "process", ...args];
  }

  /** Starts the origin, the coordinator and a worker for each name. */
  async start(names, slots) {
    this.#args.push("--url", await this.origin.listen());
    await this.startCoordinator();
    for (const name of names) this.startWorker(name, slots);
  }

  /** Starts the coordinator, or the next one on the same addresses. */
  async startCoordinator() {
    const args = [...this.#args, "--listen", this.#listen, "--http", this.#http];
    this.coordinator = this.#run("coordinator", args);
    this.url = `${await this.coordinator.says(/ at (http:\/\/[\d.]+:\d+)/)}/`;
    this.#http = new URL(this.url).host;
    this.#listen = await this.coordinator.says(/listening on ([\d.]+:\d+)/);
    await waitFor("the job", async () => (await fetch(`${this.url}readyz`)).text(),
      (text) => text !== "starting\n");
  }

  startWorker(name, slots) {
    const target = path.join(this.#folder, name);
    this.workers.set(name, this.#run("worker", ["--connect", `http://${this.#listen}`,
      "--name", name, "--workers", String(slots), "--target", target]));
  }

  #run(name, args) {
    const program = new Program(name, args);
    this.#programs.push(program);
    return program;
  }

  /** @returns {Promise<object>} what `coordinator status --json` prints */
  status = async () =>
    JSON.parse(await shell(`coordinator status --json --target "${this.target}"`));

  /** @returns {Promise<object>} a `Snapshot` of the API */
  snapshot = async () => (await fetch(`${this.url}api/v1/snapshot`)).json();

  /** @returns {Promise<(series: string) => number>} the value of a series, without its prefix */
  async metrics() {
    const lines = (await (await fetch(`${this.url}metrics`)).text()).split("\n");
    return (series) => {
      const line = lines.find((one) => one.startsWith(`imagenet_${series} `));
      return line === undefined ? NaN : Number(line.split(" ").at(-1));
    };
  }

  /** The last lines of each program, for the report of a failed test. */
  told() {
    return this.#programs.map(({ name, end, errors }) =>
      `${name} (${end ?? "running"}):\n${errors.split("\n").slice(-15).join("\n")}`).join("\n");
  }

  /** Ends all programs and removes their folders. */
  async close() {
    for (const program of this.#programs) await program.kill();
    await this.origin.close();
    await rm(this.#folder, { recursive: true, force: true, maxRetries: 10 });
  }
}
