// Lists of classes by state, worker or cause, from the API, a page at a time.

import { ask } from "./feed.js";

/** Classes in an answer of the API. */
const PAGE_SIZE = 200;
/** Most classes that are looked at for one list. */
const MAX_CLASSES = 5_000;

/** @param {{kind: string, message: string}} group a group of failures
 *  @returns {string} its name in the address */
export const causeOf = ({ kind, message }) => (message ? `${kind}: ${message}` : kind);

/** Whether a class belongs to a group of failures. The reason of an HTTP error ends with the URL of
 *  the class; the reasons of other kinds have paths and sizes, and only their kind counts. */
export function isOfCause(group, failure) {
  if (!failure || failure.kind !== group.kind) return false;
  const reason = failure.reason ?? "";
  return group.kind !== "HTTPError" || reason.startsWith(group.message);
}

/** Lists classes.
 *  @param {string} token
 *  @param {Record<string, string>} query parameters of `api/v1/classes`
 *  @param {(found: object) => boolean} isWanted
 *  @param {number} most ends the list early
 *  @returns {Promise<{classes: object[], isWhole: boolean}>} @throws {Refused} */
export async function listClasses(token, query, isWanted = () => true, most = MAX_CLASSES) {
  const found = [];
  let after = "";
  for (let looked = 0; looked < MAX_CLASSES; looked += PAGE_SIZE) {
    const parameters = new URLSearchParams({ ...query, limit: PAGE_SIZE });
    if (after) parameters.set("after", after);
    const answer = await ask(`api/v1/classes?${parameters}`, token);
    const { classes } = await answer.json();
    found.push(...classes.filter(isWanted));
    if (classes.length < PAGE_SIZE) return { classes: found, isWhole: true };
    if (found.length >= most) break;
    after = classes.at(-1).wnid;
  }
  return { classes: found, isWhole: false };
}
