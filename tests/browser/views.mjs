// The views that are checked and drawn: a job, what happens to it, and how it is looked at.

export const PHONE = { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true };
export const DARK = { colorScheme: "dark" };

const trouble = (job) => {
  const now = Date.now();
  for (const place of [0, 1, 2]) job.setWorker(name(place), { state: "silent" }, now - 17_000);
  job.setWorker(name(3), { state: "lost", bytes_per_second: null }, now - 500_000);
  job.setWorker(name(5), { state: "quarantined" }, now - 95_000);
  job.setWorker(name(6), { state: "draining" }, now - 61_000);
};

const name = (place) => `node-${String(place).padStart(4, "0")}`;

const finish = (job) => {
  while (job.phase !== "done") job.step(100);
};

const small = { classes: 30, workers: 3, settled: 0.5 };
const medium = { classes: 1000, workers: 12, settled: 0.55 };
const large = { classes: 21_843, workers: 1000, settled: 0.35 };
const CAUSE = "#cause=HTTPError%3A+404+Client+Error%3A+Not+Found";

/** Name, options of the job, what is done to it, options of the browser, filters of the address. */
export const VIEWS = [
  { name: "light", job: medium, before: trouble },
  { name: "dark", job: medium, before: trouble, browser: DARK },
  { name: "phone", job: medium, before: trouble, browser: PHONE },
  { name: "phone-dark", job: small, browser: { ...PHONE, ...DARK } },
  { name: "three-workers", job: small },
  { name: "large", job: large, before: trouble },
  { name: "large-list", job: large, before: trouble, fragment: "#workers=all&sort=name" },
  { name: "large-phone", job: large, before: trouble, browser: PHONE },
  { name: "cause", job: medium, before: trouble, fragment: CAUSE },
  { name: "cause-phone", job: medium, before: trouble, fragment: CAUSE, browser: PHONE },
  { name: "worker", job: medium, before: trouble, fragment: "#worker=node-0002" },
  { name: "states", job: medium, fragment: "#states=f,r&find=n01441134&range=10m" },
  { name: "empty", job: { classes: 200, workers: 0, settled: 0 },
    before: (job) => { job.phase = "waiting_for_workers"; } },
  { name: "finished", job: { ...medium, settled: 0.9 }, before: finish },
  { name: "forced-colors", job: medium, before: trouble, browser: { forcedColors: "active" } },
  { name: "stale", job: medium, before: trouble, isStale: true },
  { name: "stale-dark", job: medium, before: trouble, isStale: true, browser: DARK },
  { name: "token", job: small, tokens: { secret: "viewer" } },
];

/** Views of a job of the real programs, in the order of their time: `settled` is the part of the
 *  classes that are settled when they are drawn, 1 after the end, `last` the part of the page with
 *  which the picture ends. */
export const REAL_VIEWS = [
  { name: "real-start", settled: 0.02 },
  { name: "dashboard", settled: 0.62, last: "#workers",
    browser: { viewport: { width: 1180, height: 1000 } } },
  { name: "real-light", settled: 0.62 },
  { name: "real-dark", settled: 0.62, browser: DARK },
  { name: "real-phone", settled: 0.62, browser: PHONE },
  { name: "real-cause", settled: 0.62, fragment: CAUSE },
  { name: "real-worker", settled: 0.62, fragment: "#worker=node04" },
  { name: "real-finished", settled: 1 },
];
