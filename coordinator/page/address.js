// The filters stand in the fragment of the address, so each view can be kept, sent and reloaded:
// `#states=f,r&worker=w1&find=n02124075`.

const listeners = new Set();

const changed = () => listeners.forEach((listener) => listener());

/** @returns {URLSearchParams} the current filters */
export const filters = () => new URLSearchParams(location.hash.slice(1));

/** @param {string} name @returns {string} the value of a filter; "" without one */
export const filter = (name) => filters().get(name) ?? "";

/** The fragment for `all` with `changes`; an empty value removes a filter.
 *  @param {URLSearchParams} all @param {Record<string, string>} changes @returns {string} */
export function fragment(all, changes) {
  const next = new URLSearchParams(all);
  for (const [name, value] of Object.entries(changes)) {
    if (value) next.set(name, value);
    else next.delete(name);
  }
  return next.toString().replaceAll("%2C", ",");
}

/** Sets filters.
 *  @param {Record<string, string>} changes an empty value removes a filter
 *  @param {boolean} isTyped replaces the entry of the browser's history, for text that is typed */
export function setFilters(changes, isTyped = false) {
  const text = fragment(filters(), changes);
  if (text === location.hash.slice(1)) return;
  const url = text ? `#${text}` : location.pathname + location.search;
  if (isTyped) history.replaceState(null, "", url);
  else history.pushState(null, "", url);
  changed();
}

/** Calls `listener` after each change of a filter. */
export const onFilter = (listener) => listeners.add(listener);

if (globalThis.addEventListener) {
  for (const name of ["hashchange", "popstate"]) addEventListener(name, changed);
}
