// The programs under test, as processes.

import { execFile, spawn } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { waitFor } from "./browser.mjs";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
/** Folder of the programs. */
export const PROGRAMS =
  path.join(path.resolve(ROOT, process.env.CARGO_TARGET_DIR ?? "target"), "debug");
const SOURCES = ["proto", "shared/src", "worker/src", "coordinator/src", "coordinator/page"];
const HINT = "build them: cargo build -p coordinator -p worker";

/** Why the programs cannot be run; "" if they can. */
export const missingPrograms = () => (["coordinator", "worker"].every((name) =>
  fs.existsSync(path.join(PROGRAMS, name))) ? "" : `no programs in ${PROGRAMS} (${HINT})`);

/** Fails if the coordinator is older than a source file. */
export function checkAge() {
  const program = fs.statSync(path.join(PROGRAMS, "coordinator")).mtimeMs;
  for (const folder of SOURCES) {
    for (const name of fs.readdirSync(path.join(ROOT, folder), { recursive: true })) {
      const file = path.join(ROOT, folder, name);
      const isNewer = fs.statSync(file).mtimeMs > program;
      if (isNewer && fs.statSync(file).isFile()) throw new Error(`${file} is newer; ${HINT}`);
    }
  }
}

/** The variables of the programs: nothing of the caller's settings for them. */
const environment = () => ({
  ...Object.fromEntries(Object.entries(process.env).filter(([name]) =>
    !name.startsWith("IMAGENET_") && !name.startsWith("OTEL_"))),
  PATH: `${PROGRAMS}:${process.env.PATH}`,
});

/** A running program. */
export class Program {
  output = "";
  errors = "";
  /** Exit code or signal; `null` while it runs. */
  end = null;
  #process;

  constructor(name, args) {
    this.name = name;
    this.#process = spawn(path.join(PROGRAMS, name), args,
      { stdio: ["ignore", "pipe", "pipe"], env: environment() });
    this.#process.stdout.on("data", (piece) => { this.output += piece; });
    this.#process.stderr.on("data", (piece) => { this.errors += piece; });
    this.#process.on("close", (code, signal) => { this.end = code ?? signal; });
  }

  /** Waits for a match in what it prints to standard error. @returns {Promise<string>} its group */
  async says(pattern) {
    const match = await waitFor(`${this.name} says ${pattern}`,
      () => pattern.exec(this.errors) ?? (this.end === null ? null : [null, this.end]));
    if (match[0] === null) throw new Error(`${this.name} ended with ${match[1]}: ${this.errors}`);
    return match[1];
  }

  signal(name) {
    this.#process.kill(name);
  }

  /** Waits until it has ended. @returns {Promise<number | string>} exit code or signal */
  ended() {
    return waitFor(`the end of ${this.name}`, () => this.end, (end) => end !== null);
  }

  /** Ends it, if it runs. */
  async kill() {
    if (this.end === null) this.signal("SIGKILL");
    await this.ended();
  }
}

/** Runs a command line as a user types it. @returns {Promise<string>} its standard output */
export const shell = (command) => new Promise((resolve, reject) => {
  execFile("sh", ["-c", command], { env: environment(), cwd: "/", timeout: 30_000 },
    (error, output, errors) => (error ? reject(new Error(`${error.message}: ${errors}`))
      : resolve(output)));
});
