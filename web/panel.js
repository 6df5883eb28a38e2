/** One chart of the page: a topic's history and live bars joined, its price, its legend and its marks. */

import { backoff, mergeBars } from "./barcast.js";
import { lastClose, loadHistory } from "./bars.js";
import { PriceChart } from "./chart.js";
import { clock } from "./clock.js";
import * as format from "./format.js";
import { presence } from "./presence.js";
import { pause } from "./request.js";

/** Bars of history asked for at once: more than a wide screen shows. */
const HISTORY_BARS = 500;
/** Enough latencies for a calm median, few enough to follow a change. */
const LATENCIES_KEPT = 50;
/** The window of the update rate. */
const RATE_WINDOW_MS = 5_000;

/** A history that takes longer, in ms, is not waited for with the live bars. */
const HISTORY_PATIENCE_MS = 3_000;
/** Bars that come with the live ones then: enough to see something, few enough for a slow link. */
const FIRST_BARS = 100;
/** History that failed is asked for again after so long, doubled each time up to the second, in ms. */
const RETRY_MS = { base: 1_000, max: 30_000 };

/**
 * What is known of the flow of updates; times in ms of the monotonic clock. `arrived` is the last update since
 * somebody has been there to see it, `latencies` are short of what the gateway's time is ahead of that clock.
 */
function freshFlow() {
  return { from: performance.now(), arrived: null, interval: null, latencies: [], arrivals: [], counted: false, gaps: 0, absences: presence.absences };
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
  /** Whether the gateway said that it has no older bars. */
  #isEnd = false;
  /** Whether history is under way, and when older bars may be asked for again, on the monotonic clock. */
  #asking = false;
  #olderDue = 0;
  #olderFailures = 0;
  /** What of the history could not be loaded, in words. */
  #lacking = "";
  /** Ends the wait for the next attempt. */
  #retry = new AbortController();
  #flow = freshFlow();
  #drawing = false;

  /**
   * @param {object} parts
   * @param {object} parts.client        of barcast.js
   * @param {HTMLTemplateElement} parts.template
   * @param {(symbol: string) => object|undefined} parts.entry  what the watchlist knows of a symbol
   * @param {boolean} parts.logo         whether this one carries the library's logo
   * @param {{focus: () => void, search: () => void, price: (symbol: string, close: number) => void,
   *   loading: (history: Promise<unknown>) => void, filled: (bars: number, why: string) => void, drawn: () => void, say: (text: string) => void}} handlers
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
    const now = performance.now();
    const recent = arrivals.filter((at) => now - at < RATE_WINDOW_MS);
    const window = Math.min(RATE_WINDOW_MS, Math.max(1_000, now - from));
    const latency = latencies.length > 0 && clock.isSharp ? format.median(latencies) + clock.offset : null;
    // Below zero the publisher's clock is ahead of ours, and the figure means nothing.
    return { rate: (recent.length / window) * 1000, latency: latency !== null && latency > -1 - clock.error ? Math.max(0, latency) : null, gaps };
  }

  /** Once the element is in the page: a chart needs its size and its colours. */
  mount() {
    this.#chart = new PriceChart(this.#parts.chart, {
      hover: (bar) => {
        this.#hovered = bar;
        this.redraw();
      },
      away: (away) => {
        this.#parts.latest.hidden = !away;
        this.#trouble();
      },
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
    this.#lacking = "";
    this.#isEnd = false;
    this.#asking = true;
    this.#olderDue = this.#olderFailures = 0;
    this.#flow = freshFlow();
    const { long } = format.labelOf(resolution);
    this.element.setAttribute("aria-label", `Chart of ${symbol}, ${long}`);
    this.#parts.chart.setAttribute("aria-label", `Candles and volume of ${symbol}, ${long}`);
    this.#chart.reset(resolution);
    this.#chart.decimals = this.#entry(symbol)?.decimals ?? 2;
    this.redraw();

    const asked = loadHistory(symbol, resolution, { count: HISTORY_BARS, signal });
    this.#handlers.loading(asked);
    const came = await Promise.race([asked.catch(() => "failed"), pause(HISTORY_PATIENCE_MS, signal)]);
    if (signal.aborted) return;
    const last = came?.bars?.at(-1);
    if (came?.bars) this.#past(came);
    else this.#insist(asked, signal);
    // Without the history the WebSocket brings what the gateway has in memory, as soon as it is open.
    this.#follow(last ? { since: last.time } : { snapshot: came === undefined ? FIRST_BARS : HISTORY_BARS });
  }

  /** From here on what comes over the WebSocket. */
  #follow(wish) {
    this.#live = this.#client.subscribe(`bars:${this.symbol}:${this.resolution}`, wish, {
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

  /** The newest history has come. */
  #past({ bars, isEnd }) {
    const isFirst = this.bars.length === 0;
    this.#lacking = "";
    this.#isEnd = isEnd;
    this.#asking = false;
    // What came meanwhile is newer.
    this.#merge(bars, this.bars);
    if (isFirst) this.#chart.latest(false);
  }

  /** Asks for the newest history until it has come: an answer that failed says nothing of what there is. */
  async #insist(asked, signal) {
    for (let attempt = 0; ; attempt += 1) {
      try {
        const came = await asked;
        if (!signal.aborted) this.#past(came);
        return;
      } catch (why) {
        if (signal.aborted) return;
        this.#lacking = `History could not be loaded: ${why.message}. Trying again`;
        this.redraw();
      }
      await this.#pause(attempt, signal);
      if (signal.aborted) return;
      asked = loadHistory(this.symbol, this.resolution, { count: HISTORY_BARS, signal });
    }
  }

  /** Waits longer each time, unless there is a reason to hope. */
  #pause(attempt, signal) {
    this.#retry = new AbortController();
    return Promise.race([pause(backoff(attempt, RETRY_MS), this.#retry.signal), pause(RETRY_MS.max, signal)]);
  }

  /** The connection is not there: what comes first afterwards was published long ago, and is no latency. */
  lost() {
    this.#absent();
  }

  /** The connection is there again: what could not be loaded is asked for now. */
  found() {
    this.#olderDue = this.#olderFailures = 0;
    this.#retry.abort();
    if (this.#chart.isAtLeft) this.#older();
  }

  /** Nobody has been there to see what came: that time belongs to no rhythm, no silence and no latency. */
  #absent() {
    Object.assign(this.#flow, { from: performance.now(), arrived: null, counted: false, latencies: [], absences: presence.absences });
  }

  /** Once a second: whether what is shown is old. */
  tick(isOpen) {
    const flow = this.#flow;
    const now = performance.now();
    if (!isOpen || presence.look() !== flow.absences) this.#absent();
    flow.arrivals = flow.arrivals.filter((at) => now - at < RATE_WINDOW_MS);
    const last = this.bars.at(-1);
    const overdue = last ? clock.now() - last.time - format.lengthOf(this.resolution) : null;
    const silence = now - (flow.arrived ?? flow.from);
    this.#stale = isOpen && this.joined && last ? format.staleness({ silence, interval: flow.interval, overdue }) : "";
    this.element.classList.toggle("old", !isOpen || this.#stale !== "");
    if (this.#parts.stale.textContent !== this.#stale) this.#parts.stale.textContent = this.#stale;
    this.#parts.stale.hidden = this.#stale === "";
  }

  #bar(bar, { ts }) {
    const flow = this.#flow;
    const now = performance.now();
    if (presence.look() !== flow.absences) this.#absent();
    if (flow.arrived !== null && !document.hidden) {
      const interval = now - flow.arrived;
      flow.interval = flow.interval === null ? interval : flow.interval * 0.8 + interval * 0.2;
    }
    flow.arrived = now;
    flow.arrivals.push(now);
    if (ts !== undefined && flow.counted) {
      flow.latencies.push(now - ts / 1_000);
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
    if (this.#isEnd || this.#asking || !this.joined || performance.now() < this.#olderDue) return;
    this.#asking = true;
    const { signal } = this.#loader;
    try {
      const { bars, isEnd } = await loadHistory(this.symbol, this.resolution, { count: HISTORY_BARS, to: this.bars[0].time, signal });
      if (signal.aborted) return;
      this.#isEnd = isEnd;
      this.#lacking = "";
      this.#olderFailures = 0;
      if (bars.length > 0) this.#merge(bars, this.bars);
    } catch (why) {
      if (signal.aborted) return;
      this.#lacking = `Older bars could not be loaded: ${why.message}. Trying again`;
      const wait = backoff(this.#olderFailures, RETRY_MS);
      this.#olderFailures += 1;
      this.#olderDue = performance.now() + wait;
      setTimeout(() => !signal.aborted && this.#chart.isAtLeft && this.#older(), wait + 1);
    }
    this.#asking = false;
    this.#trouble();
  }

  /** What is missing on the left is said while that is in sight. */
  #trouble() {
    const text = this.#chart?.isAtLeft ? this.#lacking : "";
    if (this.#parts.trouble.textContent !== text) this.#parts.trouble.textContent = text;
    this.#parts.trouble.hidden = text === "";
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
      this.#trouble();
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
      text = this.symbol === null ? "Waiting for the first topic" : this.#lacking ? this.#lacking : this.joined ? `Waiting for the first bar of bars:${this.symbol}:${this.resolution}` : "Loading";
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
