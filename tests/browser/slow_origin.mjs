// An origin that sends tars slowly: the tars are made here, some classes are missing, and some are
// answered with a page of HTML. It answers ranges, so downloads resume.

import http from "node:http";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";

const BLOCK = 512;
/** A tar is padded to a multiple of this (POSIX.1-1988, ustar). */
const RECORD = 10_240;
const IMAGE = 24_000;
/** Pieces a second of a slow body. */
const PIECES = 10;
const HTML = "<!doctype html><title>Sign in</title><p>Sign in to download this file.</p>";

export class SlowOrigin {
  /** Class ids that are answered with 404. */
  missing = new Set();
  /** Class ids that are answered with 200 and a page of HTML. */
  pages = new Set();
  /** Bytes a second of each connection. */
  rate;
  /** Number of the next requests that are answered with 429, and their `Retry-After` in
   *  seconds. */
  refusals = 0;
  retryAfter = 2;
  #server;
  #images;

  /** @param {{rate: number, images: (wnid: string) => number}} options `images`: number of images
   *  of a class, each of 24 kB */
  constructor({ rate, images }) {
    this.rate = rate;
    this.#images = images;
    this.#server = http.createServer((request, response) => this.#answer(request, response));
  }

  /** @returns {Promise<string>} the base URL */
  async listen() {
    await new Promise((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    return `http://127.0.0.1:${this.#server.address().port}`;
  }

  /** From now on bodies are sent as fast as they are read. */
  release() {
    this.rate = Infinity;
  }

  async close() {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #answer(request, response) {
    const wnid = /^\/(n\d{8})\.tar$/.exec(request.url)?.[1];
    if (!wnid || this.missing.has(wnid)) {
      response.writeHead(404);
      return response.end();
    }
    if (this.refusals > 0) {
      this.refusals -= 1;
      response.writeHead(429, { "retry-after": String(this.retryAfter) });
      return response.end();
    }
    if (this.pages.has(wnid)) {
      response.writeHead(200, { "content-type": "text/html", "content-length": HTML.length });
      return response.end(request.method === "HEAD" ? "" : HTML);
    }
    return this.#send(request, response, tarOf(wnid, this.#images(wnid)), `"${wnid}-1"`);
  }

  #send({ method, headers }, response, tar, etag) {
    const range = /^bytes=(\d+)-(\d*)$/.exec(headers.range ?? "");
    const isSame = !headers["if-range"] || headers["if-range"] === etag;
    const isPart = range !== null && isSame;
    const from = isPart ? Number(range[1]) : 0;
    const to = isPart && range[2] !== "" ? Math.min(Number(range[2]) + 1, tar.length) : tar.length;
    if (from >= to) {
      response.writeHead(416, { "content-range": `bytes */${tar.length}` });
      return response.end();
    }
    const sent = { "content-type": "application/x-tar", "content-length": to - from, etag,
      "accept-ranges": "bytes" };
    if (isPart) sent["content-range"] = `bytes ${from}-${to - 1}/${tar.length}`;
    response.writeHead(isPart ? 206 : 200, sent);
    if (method === "HEAD") return response.end();
    const body = Readable.from(this.#pieces(tar.subarray(from, to)));
    return pipeline(body, response).catch(() => {}); // The worker has closed the connection.
  }

  async *#pieces(bytes) {
    for (let at = 0; at < bytes.length;) {
      const length = Math.min(Math.ceil(this.rate / PIECES), bytes.length);
      yield bytes.subarray(at, at + length);
      at += length;
      if (this.rate !== Infinity) {
        await new Promise((resolve) => setTimeout(resolve, 1000 / PIECES));
      }
    }
  }
}

/** The tar of a class with so many images. @returns {Buffer} */
export function tarOf(wnid, images) {
  const blocks = [];
  for (let number = 0; number < images; number += 1) {
    const content = Buffer.alloc(Math.ceil(IMAGE / BLOCK) * BLOCK);
    content.fill(`${wnid} ${number} `, 0, IMAGE);
    blocks.push(header(`${wnid}_${number}.JPEG`, IMAGE), content);
  }
  const length = blocks.reduce((sum, { length: one }) => sum + one, 0) + 2 * BLOCK;
  const end = Math.ceil(length / RECORD) * RECORD - (length - 2 * BLOCK);
  return Buffer.concat([...blocks, Buffer.alloc(end)]);
}

/** The ustar header of a plain file. */
function header(name, size) {
  const block = Buffer.alloc(BLOCK);
  const octal = (number, digits) => `${number.toString(8).padStart(digits, "0")}\0`;
  block.write(name, 0);
  block.write(octal(0o644, 7), 100);
  block.write(octal(0, 7), 108);
  block.write(octal(0, 7), 116);
  block.write(octal(size, 11), 124);
  block.write(octal(0, 11), 136);
  block.write(" ".repeat(8), 148);
  block.write("0", 156);
  block.write("ustar\u000000", 257);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${octal(sum, 6)} `, 148);
  return block;
}
