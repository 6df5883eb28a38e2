/** The watchlist: one row a symbol, with its last price and its change; rows in sight are live. */

import { parseTopic } from "./barcast.js";
import { change, decimalsOf, lengthOf, price } from "./format.js";

/** More rows than anyone scrolls through; beyond it the filter is the way. */
const ROWS_MAX = 500;
/** Updates per second and topic that an eye can still follow in a list. */
const ROW_RATE = 2;
const DAY_MS = 86_400_000;
const NONE = "No topics yet. Publish a bar to bars:AAPL:1, or start a generator.";

/**
 * @typedef {object} Entry
 * @property {string} symbol
 * @property {string[]} resolutions  finest first
 * @property {string} reference      the resolution whose bar's open the change is counted from
 * @property {number|null} price     the last one seen
 * @property {number|null} base      the open that the change is counted from
 * @property {number} decimals
 */

/**
 * The symbols in a list of topics, sorted by name.
 *
 * @param {Array<{topic: string, last: import("./barcast.js").Bar|null}>} topics as `/api/v1/topics` gives them
 * @returns {Entry[]}
 */
export function symbolsOf(topics) {
  const bySymbol = new Map();
  for (const { topic, last } of topics) {
    const parsed = parseTopic(topic);
    if (!parsed) continue;
    if (!bySymbol.has(parsed.symbol)) bySymbol.set(parsed.symbol, new Map());
    bySymbol.get(parsed.symbol).set(parsed.resolution, last);
  }
  const entries = [...bySymbol].map(([symbol, bars]) => {
    const resolutions = [...bars.keys()].sort((a, b) => lengthOf(a) - lengthOf(b));
    // The day is what a change is usually counted over; without it, the longest there is below.
    const reference = resolutions.findLast((r) => lengthOf(r) <= DAY_MS) ?? resolutions[0];
    const finest = resolutions.map((r) => bars.get(r)).find((bar) => bar && bar.close !== null);
    return {
      symbol,
      resolutions,
      reference,
      price: finest?.close ?? null,
      base: bars.get(reference)?.open ?? null,
      decimals: decimalsOf([...bars.values()].filter(Boolean)),
    };
  });
  return entries.sort((a, b) => (a.symbol < b.symbol ? -1 : 1));
}

export class Watchlist {
  /** @type {Map<string, Entry>} */
  entries = new Map();
  #client;
  #handlers;
  #list;
  #filter;
  #empty;
  #rows = new Map();
  #selected = null;
  #changed = new Set();
  #watcher;
  /** What an empty list says. */
  #none = NONE;

  /**
   * @param {{client: object, list: HTMLElement, filter: HTMLInputElement, empty: HTMLElement}} parts
   * @param {{select: (symbol: string) => void, update: (entry: Entry) => void}} handlers
   */
  constructor({ client, list, filter, empty }, handlers) {
    this.#client = client;
    this.#list = list;
    this.#filter = filter;
    this.#empty = empty;
    this.#handlers = handlers;
    this.#watcher = new IntersectionObserver((changes) => this.#sighted(changes), { root: list, rootMargin: "100px" });
    list.addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (row) handlers.select(row.dataset.symbol);
    });
    list.addEventListener("keydown", (event) => this.#key(event));
    filter.addEventListener("input", () => this.#render());
    filter.addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown") list.focus();
      else if (event.key === "Enter") this.step(0);
      else if (event.key === "Escape") this.#clear();
      else return;
      event.preventDefault();
    });
  }

  /**
   * @param {Array<object>} topics as `/api/v1/topics` gives them
   * @param {boolean} isWhole  whether these are all; otherwise others stay that are known
   */
  topics(topics, isWhole = true) {
    const known = this.entries;
    const entries = symbolsOf(topics);
    for (const entry of entries) {
      const before = known.get(entry.symbol);
      // What came over the socket is newer than the list.
      if (before) Object.assign(entry, { price: before.price ?? entry.price, base: before.base ?? entry.base });
    }
    const others = isWhole ? [] : known;
    this.entries = new Map([...others, ...entries.map((entry) => [entry.symbol, entry])]);
    this.#none = NONE;
    this.#render();
  }

  /** The list did not come: that is not an empty one. @param {string} why */
  failed(why) {
    this.#none = `The list of symbols could not be loaded (${why}). Trying again.`;
    this.#render();
  }

  /** @param {string} symbol */
  select(symbol) {
    const before = this.#rows.get(this.#selected);
    this.#selected = symbol;
    this.#mark(before);
    this.#mark(this.#rows.get(symbol));
  }

  /**
   * A price seen elsewhere, so that the chart and the list never disagree.
   *
   * @param {string} symbol
   * @param {number} value
   */
  price(symbol, value) {
    const entry = this.entries.get(symbol);
    if (!entry || entry.price === value) return;
    entry.price = value;
    this.#touch(symbol);
  }

  #mark(row) {
    if (!row) return;
    const selected = row.symbol === this.#selected;
    row.element.setAttribute("aria-selected", String(selected));
    if (selected) {
      this.#list.setAttribute("aria-activedescendant", row.element.id);
      row.element.scrollIntoView({ block: "nearest" });
    }
    this.#follow(row);
  }

  #render() {
    const query = this.#filter.value.trim().toUpperCase();
    const found = [...this.entries.keys()].filter((symbol) => symbol.toUpperCase().includes(query));
    const shown = found.slice(0, ROWS_MAX);
    if (shown.join() !== [...this.#rows.keys()].join()) this.#rebuild(shown);
    for (const symbol of shown) this.#touch(symbol);
    const hidden = found.length - shown.length;
    this.#empty.hidden = shown.length > 0;
    this.#empty.textContent = query && this.entries.size > 0 ? "No symbol matches." : this.#none;
    this.#list.setAttribute("aria-description", hidden > 0 ? `${hidden} more; filter to see them` : "");
  }

  #rebuild(symbols) {
    const rows = new Map();
    for (const symbol of symbols) {
      rows.set(symbol, this.#rows.get(symbol) ?? this.#row(symbol));
      this.#rows.delete(symbol);
    }
    for (const row of this.#rows.values()) {
      this.#watcher.unobserve(row.element);
      row.seen = false;
      row.subscriptions.forEach((s) => s.unsubscribe());
      row.subscriptions = [];
    }
    this.#rows = rows;
    this.#list.replaceChildren(...[...rows.values()].map((row) => row.element));
    // Moved elements are told of again only when their sight changes; new ones always are.
    for (const row of rows.values()) this.#watcher.observe(row.element);
  }

  #row(symbol) {
    const element = document.createElement("li");
    element.className = "row";
    element.id = `row-${symbol}`;
    element.dataset.symbol = symbol;
    element.role = "option";
    element.setAttribute("aria-selected", String(symbol === this.#selected));
    const [name, last, percent] = ["name", "last", "percent"].map((part) => {
      const span = document.createElement("span");
      span.className = part;
      element.append(span);
      return span;
    });
    name.textContent = symbol;
    name.title = symbol;
    return { symbol, element, last, percent, seen: false, subscriptions: [], drawn: null };
  }

  #sighted(changes) {
    for (const { target, isIntersecting } of changes) {
      const row = this.#rows.get(target.dataset.symbol);
      if (!row) continue;
      row.seen = isIntersecting;
      this.#follow(row);
    }
  }

  /** Live while in sight or selected. */
  #follow(row) {
    const wanted = row.seen || row.symbol === this.#selected;
    if (!wanted) {
      row.subscriptions.forEach((s) => s.unsubscribe());
      row.subscriptions = [];
    } else if (row.subscriptions.length === 0) {
      const { symbol } = row;
      const { resolutions, reference } = this.entries.get(symbol);
      row.subscriptions = [...new Set([resolutions[0], reference])].map((resolution) => {
        const bar = (value) => this.#live(symbol, value, resolution === reference);
        const snapshot = (bars) => bars.length > 0 && bar(bars[bars.length - 1]);
        return this.#client.subscribe(`bars:${symbol}:${resolution}`, { maxRate: ROW_RATE }, { bar, snapshot });
      });
    }
  }

  #live(symbol, bar, isReference) {
    const entry = this.entries.get(symbol);
    if (!entry) return;
    // An interval without trades changes no price.
    entry.price = bar.close ?? entry.price;
    if (isReference) entry.base = bar.open ?? entry.base;
    this.#touch(symbol);
  }

  /** Rows are drawn once a frame, however many updates came. */
  #touch(symbol) {
    if (this.#changed.size === 0) requestAnimationFrame(() => this.#draw());
    this.#changed.add(symbol);
  }

  #draw() {
    const symbols = [...this.#changed];
    this.#changed.clear();
    for (const symbol of symbols) {
      const entry = this.entries.get(symbol);
      const row = this.#rows.get(symbol);
      if (!entry) continue;
      this.#handlers.update(entry);
      if (!row || entry.price === null) continue;
      row.last.textContent = price(entry.price, entry.decimals);
      if (row.drawn !== null && row.drawn !== entry.price && row.seen) this.#flash(row.last, entry.price > row.drawn);
      row.drawn = entry.price;
      if (entry.base === null) continue;
      const { direction, percent } = change(entry.base, entry.price);
      row.percent.textContent = percent;
      row.percent.className = `percent ${direction}`;
    }
  }

  #flash(element, up) {
    element.classList.remove("flash-up", "flash-down");
    // Reading a size makes the browser notice that the class was away, so that the animation starts again.
    void element.offsetWidth;
    element.classList.add(up ? "flash-up" : "flash-down");
  }

  #key(event) {
    const page = Math.max(1, Math.floor(this.#list.clientHeight / 34) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.step(steps[event.key]);
  }

  /** Selects the symbol so many rows further down; 0 is the selected one, or the first. */
  step(by) {
    const symbols = [...this.#rows.keys()];
    if (symbols.length === 0) return;
    const at = symbols.indexOf(this.#selected);
    const to = Math.min(symbols.length - 1, Math.max(0, at + by));
    this.#handlers.select(symbols[at === -1 ? 0 : to]);
  }

  #clear() {
    this.#filter.value = "";
    this.#filter.blur();
    this.#render();
  }
}
