// A reverse proxy between the browser and a coordinator, which breaks connections on demand.

import http from "node:http";

export class Proxy {
  /** While true each connection is reset as soon as it opens. */
  isDown = false;
  #target;
  #prefix;
  #server;
  #sockets = new Set();

  /** @param {string} target base URL of the coordinator
   *  @param {string} prefix folder under which the proxy shows it, e.g. "/watch" */
  constructor(target, prefix = "") {
    this.#target = new URL(target);
    this.#prefix = prefix;
    this.#server = http.createServer((request, response) => this.#pass(request, response));
    this.#server.on("connection", (socket) => {
      if (this.isDown) return socket.resetAndDestroy();
      this.#sockets.add(socket);
      return socket.on("close", () => this.#sockets.delete(socket));
    });
  }

  /** @returns {Promise<string>} the URL of the page */
  async listen() {
    await new Promise((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    return `http://127.0.0.1:${this.#server.address().port}${this.#prefix}/`;
  }

  /** Resets all connections (TCP RST) and refuses new ones until `isDown` is false. */
  cut() {
    this.isDown = true;
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  async close() {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #pass(request, response) {
    if (!request.url.startsWith(`${this.#prefix}/`)) {
      response.writeHead(404);
      return response.end();
    }
    const { hostname, port } = this.#target;
    const { method, headers } = request;
    const path = request.url.slice(this.#prefix.length);
    const passed = http.request({ hostname, port, method, headers, path, agent: false },
      (answer) => {
        response.writeHead(answer.statusCode, answer.headers);
        response.flushHeaders();
        answer.pipe(response);
        answer.on("error", () => response.destroy());
      });
    passed.on("error", () => response.destroy());
    response.on("close", () => passed.destroy());
    return request.pipe(passed);
  }
}
