/** One chart of the page: a topic's history and live bars joined, its price, its legend and its marks. */

import { mergeBars } from "./barcast.js";
import { lastClose, loadHistory } from "./bars.js";
import { PriceChart } from "./chart.js";
import * as format from "./format.js";

/** Bars of history asked for at once: more than a wide screen shows. */
const HISTORY_BARS = 500;
/** Enough latencies for a calm median, few enough to follow a change. */
const LATENCIES_KEPT = 50;
/** The window of the update rate. */
const RATE_WINDOW_MS = 5_000;

/** What is known of the flow of updates; times in ms since the epoch. */
function freshFlow() {
  return { from: Date.now(), arrived: null, interval: null, latencies: [], arrivals: [], counted: false, gaps: 0 };
}

export class Panel {
  symbol = null;
  resolution = null;
  /** Whether the history has been joined with the live bars. */
  joined = false;
  element;
  #client;
  #handlers;
  #entry;
  #chart;
  #parts = {};
  #live = null;
  #loader = null;
  #hovered = null;
  #failure = "";
  #stale = "";
  #oldest = false;
  #flow = freshFlow();
  #drawing = false;

  /**
   * @param {object} parts
   * @param {object} parts.client        of barcast.js
   * @param {HTMLTemplateElement} parts.template
   * @param {(symbol: string) => object|undefined} parts.entry  what the watchlist knows of a symbol
   * @param {boolean} parts.logo         whether this one carries the library's logo
   * @param {{focus: () => void, search: () => void, price: (symbol: string, close: number) => void,
   *   filled: (bars: number, why: string) => void, drawn: () => void, say: (text: string) => void}} handlers
   */
  constructor({ client, template, entry, logo }, handlers) {
    this.#client = client;
    this.#entry = entry;
    this.#handlers = handlers;
    this.element = template.content.firstElementChild.cloneNode(true);
    for (const part of this.element.querySelectorAll("[data-part]")) this.#parts[part.dataset.part] = part;
    this.element.addEventListener("pointerdown", () => handlers.focus(), { capture: true });
    this.element.addEventListener("focusin", () => handlers.focus());
    this.#parts.pick.addEventListener("click", () => handlers.search());
    this.#parts.latest.addEventListener("click", () => this.#chart.latest());
    this.#parts.chart.addEventListener("keydown", (event) => this.#key(event));
    this.#parts.chart.addEventListener("blur", () => this.#chart.leave());
    this.#logo = logo;
  }

  #logo;

  /** The bars on the chart, oldest first. */
  get bars() {
    return this.#chart?.bars ?? [];
  }

  get spec() {
    return { symbol: this.symbol, resolution: this.resolution };
  }

  /** What the status line tells of this chart. */
  get figures() {
    const { arrivals, latencies, from, gaps } = this.#flow;
    const now = Date.now();
    const recent = arrivals.filter((at) => now - at < RATE_WINDOW_MS);
    const window = Math.min(RATE_WINDOW_MS, Math.max(1_000, now - from));
    const latency = latencies.length > 0 ? format.median(latencies) : null;
    // Below zero the publisher's clock is ahead of ours, and the figure means nothing.
    return { rate: (recent.length / window) * 1000, latency: latency !== null && latency > -1 ? Math.max(0, latency) : null, gaps };
  }

  /** Once the element is in the page: a chart needs its size and its colours. */
  mount() {
    this.#chart = new PriceChart(this.#parts.chart, {
      hover: (bar) => {
        this.#hovered = bar;
        this.redraw();
      },
      away: (away) => (this.#parts.latest.hidden = !away),
      older: () => this.#older(),
    }, this.#logo);
  }

  theme() {
    this.#chart.theme();
  }

  /** Ends everything. */
  remove() {
    this.#live?.unsubscribe();
    this.#loader?.abort();
    this.#chart.remove();
    this.element.remove();
  }

  /** Shows a topic: its history by HTTP, and from the last bar of it on what comes over the WebSocket. */
  async show(symbol, resolution) {
    if (symbol === this.symbol && resolution === this.resolution) return;
    this.#live?.unsubscribe();
    this.#live = null;
    this.#loader?.abort();
    const { signal } = (this.#loader = new AbortController());
    Object.assign(this, { symbol, resolution, joined: false });
    this.#hovered = null;
    this.#failure = this.#stale = "";
    this.#oldest = false;
    this.#flow = freshFlow();
    const { long } = format.labelOf(resolution);
    this.element.setAttribute("aria-label", `Chart of ${symbol}, ${long}`);
    this.#parts.chart.setAttribute("aria-label", `Candles and volume of ${symbol}, ${long}`);
    this.#chart.reset(resolution);
    this.#chart.decimals = this.#entry(symbol)?.decimals ?? 2;
    this.redraw();

    // Without the history the WebSocket brings what the gateway has in memory, as soon as it stands.
    const bars = await loadHistory(symbol, resolution, { count: HISTORY_BARS, signal }).catch(() => []);
    if (signal.aborted) return;
    this.#merge(bars, []);
    this.#chart.latest(false);
    const wish = bars.length > 0 ? { since: bars.at(-1).time } : { snapshot: HISTORY_BARS };
    this.#live = this.#client.subscribe(`bars:${symbol}:${resolution}`, wish, {
      bar: (bar, meta) => this.#bar(bar, meta),
      revision: (bar) => this.#put(bar),
      snapshot: (bars, { why }) => this.#snapshot(bars, why),
      gap: () => {
        this.#flow.gaps += 1;
      },
      error: ({ message }) => {
        this.#failure = message;
        this.redraw();
      },
    });
  }

  /** The connection is not there: what comes first afterwards was published long ago, and is no latency. */
  lost() {
    this.#flow.counted = false;
    this.#flow.latencies = [];
  }

  /** Once a second: whether what is shown is old. */
  tick(now, isOpen) {
    const flow = this.#flow;
    flow.arrivals = flow.arrivals.filter((at) => now - at < RATE_WINDOW_MS);
    const last = this.bars.at(-1);
    const end = last ? last.time + format.lengthOf(this.resolution) : null;
    this.#stale = isOpen && this.joined && last ? format.staleness({ ...flow, now, end }) : "";
    this.element.classList.toggle("old", !isOpen || this.#stale !== "");
    if (this.#parts.stale.textContent !== this.#stale) this.#parts.stale.textContent = this.#stale;
    this.#parts.stale.hidden = this.#stale === "";
  }

  #bar(bar, { ts }) {
    const flow = this.#flow;
    const now = Date.now();
    if (flow.arrived !== null) {
      const interval = now - flow.arrived;
      flow.interval = flow.interval === null ? interval : flow.interval * 0.8 + interval * 0.2;
    }
    flow.arrived = now;
    flow.arrivals.push(now);
    if (ts !== undefined && flow.counted) {
      flow.latencies.push(now - ts / 1000);
      if (flow.latencies.length > LATENCIES_KEPT) flow.latencies.shift();
    }
    // The first one is the current bar, sent on subscribing however old it is.
    flow.counted = true;
    this.#put(bar);
    if (bar.close !== null) this.#handlers.price(this.symbol, bar.close);
  }

  #put(bar) {
    this.#chart.put(bar);
    if (this.bars.length === 1) this.#chart.decimals = format.decimalsOf(this.bars);
    this.redraw();
  }

  #snapshot(bars, why) {
    const known = this.bars.at(-1)?.time ?? -Infinity;
    const before = this.bars.length;
    this.#merge(this.bars, bars);
    this.joined = true;
    const added = why === "resume" ? bars.filter(({ time }) => time > known).length : this.bars.length - before;
    if (why !== "asked") this.#handlers.filled(added, why);
  }

  #merge(older, newer) {
    const bars = mergeBars(older, newer);
    this.#chart.decimals = format.decimalsOf(bars);
    this.#chart.replace(bars);
    this.redraw();
  }

  /** The left end is in sight: what came before it. */
  async #older() {
    if (this.#oldest || !this.joined) return;
    // Until the answer is there, and for good when there is nothing more.
    this.#oldest = true;
    const { signal } = this.#loader;
    const first = this.bars[0].time;
    const bars = await loadHistory(this.symbol, this.resolution, { count: HISTORY_BARS, to: first, signal }).catch(() => []);
    if (signal.aborted || bars.length === 0) return;
    this.#merge(bars, this.bars);
    this.#oldest = false;
  }

  /** Draws once a frame, however many bars came. */
  redraw() {
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      this.#quote();
      this.#legend();
      this.#note();
      this.#handlers.drawn();
    });
  }

  /** The price in words, for the page's title. */
  get price() {
    const value = lastClose(this.bars);
    return value === null ? null : format.price(value, this.#chart.decimals);
  }

  #quote() {
    const { symbol, price, change, resolution } = this.#parts;
    symbol.textContent = this.symbol ?? "–";
    resolution.textContent = this.resolution ? format.labelOf(this.resolution).short : "";
    price.textContent = this.price ?? "–";
    const value = lastClose(this.bars);
    const { base = null, reference } = this.#entry(this.symbol) ?? {};
    change.textContent = "";
    if (value === null || base === null) return;
    const { direction, percent } = format.change(base, value);
    const sign = { up: "+", down: "−", flat: "" }[direction];
    change.textContent = `${sign}${format.price(Math.abs(value - base), this.#chart.decimals)} (${percent})`;
    change.className = `change ${direction}`;
    change.title = `Since the open of the ${format.labelOf(reference).short} bar`;
  }

  #legend() {
    const bar = this.#hovered ?? this.bars.at(-1);
    const write = (name, text) => (this.#parts[name].textContent = text);
    write("time", bar ? format.barTime(bar.time, this.resolution) : "–");
    for (const name of ["open", "high", "low", "close"]) {
      write(name, bar && bar[name] !== null ? format.price(bar[name], this.#chart.decimals) : "–");
    }
    write("volume", bar ? format.volume(bar.volume) : "–");
    this.#parts.legend.dataset.direction = !bar || bar.close === null ? "" : bar.close >= bar.open ? "up" : "down";
  }

  #note() {
    let text = this.#failure;
    if (!text && this.bars.length === 0) {
      text = this.symbol === null ? "Waiting for the first topic" : this.joined ? `Waiting for the first bar of bars:${this.symbol}:${this.resolution}` : "Loading";
    }
    this.#parts.note.textContent = text;
    this.#parts.note.hidden = text === "";
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const chart = this.#chart;
    const step = (by) => {
      chart.step(by);
      // The legend is drawn with the next frame; what it says then is what a screen reader is told.
      requestAnimationFrame(() => this.#handlers.say(this.#spoken()));
    };
    const page = 10;
    const acts = {
      ArrowLeft: () => step(-1),
      ArrowRight: () => step(1),
      PageUp: () => step(-page),
      PageDown: () => step(page),
      Home: () => step(-Infinity),
      End: () => (chart.leave(), chart.latest()),
      "+": () => chart.zoom(1),
      "=": () => chart.zoom(1),
      "-": () => chart.zoom(-1),
    };
    if (!acts[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    acts[event.key]();
  }

  #spoken() {
    const bar = this.#hovered ?? this.bars.at(-1);
    if (!bar) return "";
    const when = format.barTime(bar.time, this.resolution);
    if (bar.close === null) return `${when}: no trades`;
    const [open, high, low, close] = [bar.open, bar.high, bar.low, bar.close].map((value) => format.price(value, this.#chart.decimals));
    return `${when}: open ${open}, high ${high}, low ${low}, close ${close}, volume ${format.volume(bar.volume)}`;
  }
}
