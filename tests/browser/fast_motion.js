// Makes time run faster in a page of the mock coordinator: its clocks and its short delays. Delays
// of 5 s and more, after which a connection counts as broken, keep their length.

(() => {
  const SPEED = Number(document.currentScript.dataset.speed);
  const KEPT = 5_000;
  const faster = (name) => {
    const original = globalThis[name];
    globalThis[name] = (call, delay = 0, ...rest) =>
      original(call, delay < KEPT ? delay / SPEED : delay, ...rest);
  };
  faster("setTimeout");
  faster("setInterval");
  for (const clock of [performance, Date]) {
    const original = clock.now.bind(clock);
    const start = original();
    clock.now = () => start + (original() - start) * SPEED;
  }
})();
