// The token of the viewer: it stays in this tab and is forgotten when the tab is closed.

import { byId, setText } from "./dom.js";

const TOKEN = "token";

/** @returns {string} the token; "" without one */
export const token = () => sessionStorage.getItem(TOKEN) ?? "";

export class Access {
  #dialog = byId("access");
  #isNeeded = false;
  /** Whether the page shows nothing until the viewer has answered. */
  #isRefused = false;
  #changed;

  /** @param {() => void} changed called after a new token was given */
  constructor(changed) {
    this.#changed = changed;
    byId("access-form").addEventListener("submit", (event) => {
      event.preventDefault();
      sessionStorage.setItem(TOKEN, byId("token").value.trim());
      byId("token").value = "";
      this.#isNeeded = false;
      this.#isRefused = false;
      this.#dialog.close();
      changed();
    });
    byId("access-cancel").addEventListener("click", () => this.#cancel());
    this.#dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      this.#cancel();
    });
    byId("sign-in").addEventListener("click", () => this.offer());
  }

  /** Asks for a token, because the coordinator refuses this viewer. After a refused token the
   *  viewer may also go on without one. */
  demand(error) {
    const isRejected = token() !== "";
    sessionStorage.removeItem(TOKEN);
    this.#isNeeded = !isRejected;
    this.#isRefused = true;
    this.#show(isRejected ? "The coordinator refuses this token." : "", error.message);
  }

  #cancel() {
    if (this.#isNeeded) return;
    this.#dialog.close();
    if (!this.#isRefused) return;
    this.#isRefused = false;
    this.#changed();
  }

  /** Asks for another token, for example an admin's. */
  offer() {
    this.#show("", "With an admin's token this page can also retry failed classes.");
  }

  #show(problem, why) {
    setText(byId("access-problem"), problem);
    setText(byId("access-why"), why);
    byId("access-cancel").hidden = this.#isNeeded;
    if (!this.#dialog.open) this.#dialog.showModal();
    byId("token").focus();
  }
}
