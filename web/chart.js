/** The chart: candles and volume of one topic, on TradingView's library. */

import { CandlestickSeries, CrosshairMode, HistogramSeries, createChart } from "./vendor/lightweight-charts.standalone.production.mjs";
import { putBar } from "./bars.js";
import { barTime, lengthOf, price } from "./format.js";

/** Pixels from candle to candle: bodies and wicks stay apart, and an hour of minutes fits a phone. */
const BAR_SPACING = 8;
/** Empty bars to the right of the last one. */
const RIGHT_OFFSET = 6;
/** So many bars from the left end of the history, older ones are fetched. */
const OLDER_WITHIN = 20;
/** One key press zooms by so much. */
const ZOOM = 1.25;
/** Half a day of seconds; beyond it the oldest are let go, so that a page left open does not grow. */
const BARS_MAX = 43_200;
const DAY_MS = 86_400_000;

export class PriceChart {
  /** @type {import("./barcast.js").Bar[]} oldest first */
  bars = [];
  #element;
  #hover;
  #chart;
  #candles;
  #volume;
  #colours = {};
  #resolution = "1";
  #decimals = null;
  /** Index of the bar that the arrow keys stand at. */
  #cursor = null;

  /**
   * @param {HTMLElement} element
   * @param {{hover: (bar: import("./barcast.js").Bar|null) => void, away: (away: boolean) => void, older: () => void}} handlers
   *   the bar under the crosshair, whether the latest bar is out of sight, and that bars before the first are wanted
   * @param {boolean} logo  TradingView's, once a page
   */
  constructor(element, { hover, away, older }, logo = true) {
    this.#element = element;
    this.#hover = hover;
    this.#chart = createChart(element, {
      autoSize: true,
      layout: { attributionLogo: logo, fontFamily: getComputedStyle(document.body).fontFamily, fontSize: 12 },
      crosshair: { mode: CrosshairMode.Normal },
      rightPriceScale: { borderVisible: false, scaleMargins: { top: 0.08, bottom: 0.24 } },
      timeScale: { borderVisible: false, barSpacing: BAR_SPACING, rightOffset: RIGHT_OFFSET, minBarSpacing: 1 },
      localization: {
        locale: "en-US",
        timeFormatter: (time) => barTime(time * 1000, this.#resolution),
      },
    });
    this.#volume = this.#chart.addSeries(HistogramSeries, {
      priceScaleId: "volume",
      priceFormat: { type: "volume" },
      lastValueVisible: false,
      priceLineVisible: false,
    });
    this.#volume.priceScale().applyOptions({ scaleMargins: { top: 0.82, bottom: 0 } });
    this.#candles = this.#chart.addSeries(CandlestickSeries, { borderVisible: false });
    this.#chart.subscribeCrosshairMove(({ time }) => hover(time === undefined ? null : this.#at(time * 1000)));
    this.#chart.timeScale().subscribeVisibleLogicalRangeChange((range) => {
      away(range !== null && range.to < this.bars.length - 1);
      if (this.isAtLeft) older();
    });
    this.decimals = 2;
    this.theme();
  }

  /** Take the colours of the page's theme. */
  theme() {
    const probe = document.createElement("i");
    this.#element.append(probe);
    const colour = (name) => {
      probe.style.color = `var(--${name})`;
      return getComputedStyle(probe).color;
    };
    const [ground, grid, muted, line] = ["ground", "grid", "muted", "line"].map(colour);
    this.#colours = { up: colour("volume-up"), down: colour("volume-down") };
    const [up, down] = [colour("up-fill"), colour("down-fill")];
    const crosshair = { color: muted, labelBackgroundColor: colour("label") };
    probe.remove();
    this.#chart.applyOptions({
      layout: { background: { color: ground }, textColor: muted, panes: { separatorColor: line } },
      grid: { vertLines: { color: grid }, horzLines: { color: grid } },
      crosshair: { vertLine: crosshair, horzLine: crosshair },
    });
    this.#candles.applyOptions({ upColor: up, downColor: down, wickUpColor: up, wickDownColor: down });
    this.#draw();
  }

  /**
   * Start over with a topic that has no bars yet.
   *
   * @param {string} resolution
   */
  reset(resolution) {
    this.bars = [];
    this.#cursor = null;
    this.#resolution = resolution;
    const length = lengthOf(resolution);
    this.#draw();
    this.#chart.timeScale().applyOptions({
      barSpacing: BAR_SPACING,
      timeVisible: length < DAY_MS,
      secondsVisible: length < 60_000,
    });
    this.#candles.priceScale().applyOptions({ autoScale: true });
    this.latest(false);
  }

  /** @param {import("./barcast.js").Bar[]} bars oldest first: all there is */
  replace(bars) {
    this.bars = bars.slice(-BARS_MAX);
    this.#draw();
  }

  /** @param {import("./barcast.js").Bar} bar */
  put(bar) {
    const what = putBar(this.bars, bar);
    if (what === "inserted" || this.bars.length > BARS_MAX * 1.1) return this.replace(this.bars);
    this.#candles.update(this.#candle(bar), what === "revised");
    this.#volume.update(this.#column(bar), what === "revised");
  }

  /** @param {number} decimals of the prices */
  set decimals(decimals) {
    if (decimals === this.#decimals) return;
    this.#decimals = decimals;
    this.#candles.applyOptions({
      priceFormat: { type: "custom", minMove: 10 ** -decimals, formatter: (value) => price(value, decimals) },
    });
  }

  get decimals() {
    return this.#decimals;
  }

  /** Whether the left end of the bars is in sight, or nearly so. */
  get isAtLeft() {
    const range = this.#chart.timeScale().getVisibleLogicalRange();
    return range !== null && this.bars.length > 0 && this.bars.length < BARS_MAX && range.from < OLDER_WITHIN;
  }

  /** Go to the latest bar. */
  latest(animated = true) {
    this.#chart.timeScale().scrollToPosition(RIGHT_OFFSET, animated);
  }

  /** The crosshair goes so many bars to the right (to the left, below zero), from the latest one at first. */
  step(by) {
    const last = this.bars.length - 1;
    if (last < 0) return;
    this.#cursor = Math.min(last, Math.max(0, (this.#cursor ?? last + (by < 0 ? 1 : 0)) + by));
    const { time, close } = this.bars[this.#cursor];
    const scale = this.#chart.timeScale();
    const range = scale.getVisibleLogicalRange();
    if (range && this.#cursor < range.from) scale.scrollToPosition(scale.scrollPosition() - (range.from - this.#cursor) - 1, false);
    else if (range && this.#cursor > range.to) scale.scrollToPosition(scale.scrollPosition() + (this.#cursor - range.to) + 1, false);
    this.#chart.setCrosshairPosition(close ?? 0, time / 1000, this.#candles);
    // The library tells of a pointer's moves alone.
    this.#hover(this.bars[this.#cursor]);
  }

  /** The crosshair goes away. */
  leave() {
    this.#cursor = null;
    this.#chart.clearCrosshairPosition();
    this.#hover(null);
  }

  /** @param {number} steps above zero: candles become wider */
  zoom(steps) {
    const scale = this.#chart.timeScale();
    scale.applyOptions({ barSpacing: scale.options().barSpacing * ZOOM ** steps });
  }

  /** Frees what the library holds. */
  remove() {
    this.#chart.remove();
  }

  #draw() {
    this.#volume.setData(this.bars.map((bar) => this.#column(bar)));
    this.#candles.setData(this.bars.map((bar) => this.#candle(bar)));
  }

  #candle({ time, open, high, low, close }) {
    // An interval without trades: a place on the time scale, and nothing in it.
    if (close === null) return { time: time / 1000 };
    return { time: time / 1000, open, high, low, close };
  }

  #column({ time, open, close, volume }) {
    if (close === null) return { time: time / 1000 };
    return { time: time / 1000, value: volume, color: close >= open ? this.#colours.up : this.#colours.down };
  }

  #at(time) {
    return this.bars.findLast((bar) => bar.time === time) ?? null;
  }
}
