/** The list of all topics, page by page: one at a time, and never before the history of a chart. */

import { backoff } from "./barcast.js";
import { askJson, pause } from "./request.js";

const TOPICS_URL = "api/v1/topics";
/** How soon a topic that somebody starts to publish is listed, in ms after the list before. */
const EVERY_MS = 15_000;
/** While a market fills up, for so long after the page or a new symbol came. */
const FILLING_EVERY_MS = 2_000;
const FILLING_FOR_MS = 10_000;
/** A list rests for so many times as long as it took: on a slow link, charts have most of it. */
const REST = 4;
/** Topics of a page at first, some 200 bytes each. */
const PAGE_FIRST = 200;
const PAGE_MIN = 50;
/** As many as the gateway lists at once. */
const PAGE_MAX = 5_000;
/** A page should take about so long, in ms: it is what is lost when a chart goes first. */
const PAGE_MS = 1_000;
/** A page is at most so many times the one before. */
const GROWTH = 4;
/** A list that failed goes on after so long, doubled each time up to the second, in ms. */
const RETRY_MS = { base: 2_000, max: 30_000 };
/** A chart's history goes first, but not for ever, in ms. */
const HELD_MAX_MS = 30_000;

export class Listing {
  #handlers;
  #due = -Infinity;
  #fillingUntil = performance.now() + FILLING_FOR_MS;
  #underWay = false;
  #failures = 0;
  #limit = PAGE_FIRST;
  /** What has come of the present list, and where it goes on. */
  #topics = [];
  #after = null;
  #isWhole = false;
  /** Histories that charts wait for. */
  #first = new Set();
  #request = new AbortController();

  /**
   * @param {{isWanted: () => boolean, part: (topics: object[]) => void, whole: (topics: object[]) => boolean,
   *   failed: (why: string) => void}} handlers  what has come so far; all of it (true: there are new symbols); why it stopped
   */
  constructor(handlers) {
    this.#handlers = handlers;
  }

  /** A chart waits for its history: what is under way of the list is given up, and asked for again behind it. */
  behind(history) {
    const done = () => this.#first.delete(history);
    this.#first.add(history);
    history.then(done, done);
    this.#request.abort();
  }

  /** Lists anew as soon as can be. */
  soon() {
    this.#due = -Infinity;
    this.#failures = 0;
    this.turn();
  }

  /** Begins if a list is due and none is under way. */
  turn() {
    if (this.#underWay || !this.#handlers.isWanted() || performance.now() < this.#due) return;
    this.#underWay = true;
    this.#list().finally(() => (this.#underWay = false));
  }

  async #list() {
    let took = 0;
    do {
      if (this.#first.size > 0) await Promise.race([Promise.allSettled(this.#first), pause(HELD_MAX_MS)]);
      const began = performance.now();
      try {
        if (!(await this.#page())) continue;
      } catch (why) {
        this.#due = performance.now() + backoff(this.#failures, RETRY_MS);
        this.#failures += 1;
        this.#handlers.failed(why.message);
        return;
      }
      const spent = Math.max(1, performance.now() - began);
      took += spent;
      const fitting = Math.min(this.#limit * GROWTH, (this.#limit * PAGE_MS) / spent);
      this.#limit = Math.round(Math.min(PAGE_MAX, Math.max(PAGE_MIN, fitting)));
    } while (!this.#isWhole);
    this.#done(took);
  }

  /** Asks for one page. @returns {Promise<boolean>} whether it came; not when a chart goes first */
  async #page() {
    const { signal } = (this.#request = new AbortController());
    const query = new URLSearchParams({ limit: String(this.#limit) });
    if (this.#after !== null) query.set("after", this.#after);
    try {
      const { topics, next } = await askJson(`${TOPICS_URL}?${query}`, { signal });
      this.#topics.push(...topics);
      this.#after = next ?? null;
    } catch (why) {
      if (signal.aborted) return false;
      throw why;
    }
    this.#isWhole = this.#after === null;
    // The last symbol may have further topics on the next page.
    const last = this.#topics.at(-1)?.symbol;
    if (!this.#isWhole) this.#handlers.part(this.#topics.filter(({ symbol }) => symbol !== last));
    return true;
  }

  #done(took) {
    const topics = this.#topics;
    this.#topics = [];
    this.#isWhole = false;
    this.#failures = 0;
    const now = performance.now();
    if (this.#handlers.whole(topics)) this.#fillingUntil = now + FILLING_FOR_MS;
    const isFilling = now < this.#fillingUntil || topics.length === 0;
    this.#due = now + Math.max(isFilling ? FILLING_EVERY_MS : EVERY_MS, REST * took);
  }
}
