/** Questions to the gateway by HTTP: every byte of an answer is a sign of life, and its `Date` is the gateway's time. */

import { clock } from "./clock.js";

/** So long without a byte, an answer does not come any more, in ms. A slow link brings some all the time. */
export const SILENT_MS = 15_000;

/** An answer that did not come, with words for people in `message`. */
export class NoAnswer extends Error {}

/**
 * Asks for a text. It may take as long as it likes, as long as some of it comes.
 *
 * @param {string} url
 * @param {{signal?: AbortSignal, silent?: number, accept?: string}} [options]  `silent` in ms; `accept` a media type
 * @returns {Promise<{text: string, at: number}>} `at`: when it was made, on the monotonic clock, about
 * @throws {NoAnswer} when it did not come, or is not one of success; what `signal` says when that ended it
 */
export async function ask(url, { signal, silent = SILENT_MS, accept = "*/*" } = {}) {
  const controller = new AbortController();
  const end = () => controller.abort();
  let timer = setTimeout(end, silent);
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(end, silent);
  };
  signal?.throwIfAborted();
  signal?.addEventListener("abort", end);
  try {
    const sent = performance.now();
    const headers = { accept };
    const response = await fetch(url, { headers, signal: controller.signal, cache: "no-store" });
    const received = performance.now();
    clock.take(response.headers.get("date"), sent, received);
    alive();
    const text = await read(response, alive);
    if (!response.ok) throw new NoAnswer(`answered ${response.status}`);
    return { text, at: (sent + received) / 2 };
  } catch (why) {
    signal?.throwIfAborted();
    if (why instanceof NoAnswer) throw why;
    throw new NoAnswer(controller.signal.aborted ? `no answer in ${silent / 1_000} s` : "no connection");
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", end);
  }
}

/** Likewise of JSON; `at` is left out. */
export async function askJson(url, options) {
  const { text } = await ask(url, options);
  try {
    return JSON.parse(text);
  } catch {
    throw new NoAnswer("the answer is not JSON");
  }
}

/** Reads a body as it comes. */
async function read(response, alive) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    alive();
    if (done) return text + decoder.decode();
    text += decoder.decode(value, { stream: true });
  }
}

/** Resolves after so many ms, or as soon as `signal` ends it. @param {number} ms @param {AbortSignal} [signal] */
export function pause(ms, signal) {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
    signal?.addEventListener("abort", resolve, { once: true });
  });
}
