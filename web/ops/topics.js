/** The topics of the gateway with their rates. No DOM, so that it can be tested. */

import { increase } from "./rates.js";

/** Rates are over the last so many ms: a topic may get a bar every two seconds. */
export const RATE_WINDOW_MS = 10_000;

/**
 * @typedef {{topic: string, subscribers: number|null, messages: number|null, rate: number|null, due: number|null}} Row
 *   `rate` in messages per second, `due` in deliveries per second
 */

export class Topics {
  /** @type {{at: number, messages: Map<string, number>}[]} oldest first */
  #looks = [];
  #answer = { total: 0, topics: [] };

  /**
   * @param {{total: number, topics: {topic: string, subscribers: number, messages: number}[]}} answer  of `/api/v1/topics`
   * @param {number} at  ms of a clock that only goes forward
   */
  take(answer, at) {
    this.#answer = answer;
    this.#looks.push({ at, messages: new Map(answer.topics.map(({ topic, messages }) => [topic, messages])) });
    while (this.#looks.length > 2 && this.#looks[1].at <= at - RATE_WINDOW_MS) this.#looks.shift();
  }

  /** The gateway is out of reach: no rate over that time. */
  miss() {
    this.#looks = [];
  }

  /** How many topics the gateway has; it lists so many of them at most. */
  get total() {
    return this.#answer.total;
  }

  get listed() {
    return this.#answer.topics.length;
  }

  /**
   * @param {Map<string, number>} watched  subscribers of the most watched topics, which may not be listed
   * @returns {Row[]}
   */
  rows(watched = new Map()) {
    const [first, last] = [this.#looks[0], this.#looks.at(-1)];
    const seconds = last ? (last.at - first.at) / 1_000 : 0;
    const rows = this.#answer.topics.map(({ topic, subscribers, messages }) => {
      const rate = seconds > 0 ? increase(first.messages.get(topic) ?? 0, messages) / seconds : null;
      return { topic, subscribers, messages, rate, due: rate === null ? null : rate * subscribers };
    });
    const known = new Set(rows.map(({ topic }) => topic));
    for (const [topic, subscribers] of watched) {
      if (!known.has(topic)) rows.push({ topic, subscribers, messages: null, rate: null, due: null });
    }
    return rows;
  }
}

/**
 * The rows that are shown, sorted; equal ones by name. What is not known comes last.
 *
 * @param {Row[]} rows
 * @param {{by: keyof Row, descending: boolean, filter: string, most: number}} wish
 * @returns {{shown: Row[], matching: number}}
 */
export function arrange(rows, { by, descending, filter, most }) {
  // Every topic begins with it: whoever looks for A does not mean that one.
  const plain = (text) => text.toLowerCase().replace(/^bars:/, "");
  const words = filter.split(/\s+/).map(plain).filter(Boolean);
  const matching = rows.filter(({ topic }) => words.every((word) => plain(topic).includes(word)));
  const byName = (a, b) => (a.topic < b.topic ? -1 : a.topic > b.topic ? 1 : 0);
  const sign = descending ? -1 : 1;
  matching.sort((a, b) => {
    if (by === "topic") return sign * byName(a, b);
    if (a[by] === null || b[by] === null) return (a[by] === null) - (b[by] === null) || byName(a, b);
    return sign * (a[by] - b[by]) || byName(a, b);
  });
  return { shown: matching.slice(0, most), matching: matching.length };
}
