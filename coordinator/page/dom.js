// Functions for elements. Text goes through `textContent` only: names of workers and messages of
// origins are not trusted.

import { fragment, setFilters } from "./address.js";

/** How long a message to the viewer stays, in milliseconds. */
const MESSAGE_TIME = 8_000;

/** @param {string} id @returns {HTMLElement} */
export const byId = (id) => document.getElementById(id);

/** Sets the text of an element if it differs, so that a screen reader reads only changes. The node
 *  of a text stays, because new nodes are garbage every second. */
export function setText(element, text) {
  const node = element.firstChild;
  if (element.childNodes.length === 1 && node.nodeType === Node.TEXT_NODE && text !== "") {
    if (node.data !== text) node.data = text;
  } else if (element.textContent !== text) element.textContent = text;
}

/** Sets an attribute if it differs; `null` removes it. */
export function setAttribute(element, name, value) {
  if (value === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/** An element with attributes, listeners (`onclick`) and children (strings become text). */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Makes the children of `parent` those of `items`. Elements of items with the same key stay, so
 *  that focus, selection and open details survive an update. */
export function keyed(parent, items, key, create, update) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const names = items.map((item) => String(key(item)));
  const kept = names.map((name) => {
    const element = old.get(name);
    old.delete(name);
    return element;
  });
  for (const element of old.values()) element.remove();
  place(parent, items, names, kept, create, update);
}

/** Like `keyed` for rows that differ by `update` only: the rows of items that are gone become those
 *  of new items. New rows every second would be garbage every second. */
export function recycled(parent, items, key, create, update) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const names = items.map((item) => String(key(item)));
  const kept = names.map((name) => old.get(name));
  for (const name of names) old.delete(name);
  const free = [...old.values()];
  const filled = kept.map((element) => element ?? free.shift());
  for (const element of free) element.remove();
  place(parent, items, names, filled, create, update);
}

function place(parent, items, names, elements, create, update) {
  let next = parent.firstElementChild;
  items.forEach((item, position) => {
    const element = elements[position] ?? create(item);
    if (element.dataset.key !== names[position]) element.dataset.key = names[position];
    update(element, item);
    if (element === next) next = next.nextElementSibling;
    else parent.insertBefore(element, next);
  });
}

/** A link that sets filters and moves to a section. */
export function filterLink() {
  const link = make("a", {});
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    setFilters(link.changes);
    goTo(link.target_id);
  });
  return link;
}

/** Sets what a link of `filterLink` shows and where it leads, which follows from the text; an empty
 *  text hides it. */
export function setLink(link, text, changes, section) {
  if (link.changes && link.textContent === text) return;
  setText(link, text);
  link.hidden = text === "";
  link.changes = changes;
  link.target_id = section;
  setAttribute(link, "href", `#${fragment(new URLSearchParams(), changes)}`);
}

/** Moves the view and the focus to a section. */
export function goTo(id) {
  const section = byId(id);
  section.focus({ preventScroll: true });
  section.scrollIntoView({ block: "start" });
}

/** A button that is pressed while a choice is set: keeps `aria-pressed` and the text. */
export function setPressed(button, isPressed) {
  setAttribute(button, "aria-pressed", String(isPressed));
}

let hiding = 0;

/** Shows a message for some seconds; screen readers read it. */
export function announce(text, isError = false) {
  const box = byId("message");
  box.classList.toggle("error", isError);
  box.classList.add("shown");
  box.textContent = text;
  clearTimeout(hiding);
  hiding = setTimeout(() => {
    box.classList.remove("shown");
    box.textContent = "";
  }, MESSAGE_TIME);
}

/** Tells screen readers only. */
export const tell = (text) => setText(byId("spoken"), text);
