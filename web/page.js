/** The chart page: one topic as a chart, all symbols as a watchlist. */

import { connect, mergeBars } from "./barcast.js";
import { PriceChart } from "./chart.js";
import * as format from "./format.js";
import { Watchlist } from "./watchlist.js";

const TOPICS_URL = "/api/v1/topics";
/** Bars of history asked for: more than a wide screen shows at once. */
const HISTORY_BARS = 500;
/** A server without history gives no snapshot; the chart then starts with what comes live. */
const HISTORY_WITHIN_MS = 5_000;
/** How soon a topic that somebody starts to publish is listed. */
const TOPICS_EVERY_MS = 15_000;
/** After a gap history is asked for again, but a row of gaps must not become a row of requests. */
const REFRESH_EVERY_MS = 5_000;
/** Enough latencies for a calm median, few enough to follow a change. */
const LATENCIES_KEPT = 50;
/** The window of the update rate. */
const RATE_WINDOW_MS = 5_000;
const DEFAULT_RESOLUTION = "1";
const DAY_MS = 86_400_000;

const $ = (id) => document.getElementById(id);

/** What is on the chart, and how it flows. */
const view = {
  symbol: null,
  resolution: null,
  /** subscription of the live bars */
  live: null,
  /** ends the loading of an earlier selection's history */
  loader: null,
  hovered: null,
  failure: "",
  loading: false,
  ...freshFlow(),
};

function freshFlow() {
  return { from: Date.now(), gaps: 0, arrived: null, interval: null, latencies: [], arrivals: [], counted: false, refreshed: -Infinity };
}

const chart = new PriceChart($("chart"), {
  hover: (bar) => {
    view.hovered = bar;
    legend();
  },
  away: (away) => ($("latest").hidden = !away),
});

const client = connect(undefined, {
  state: ({ name }) => {
    // The first state is told while the client is still being made.
    queueMicrotask(health);
    if (name !== "open") return;
    // What is sent on a resume was published long ago: no latency.
    view.counted = false;
    queueMicrotask(loadTopics);
  },
  latency: (ms) => ($("ping").textContent = format.milliseconds(ms)),
});

const watchlist = new Watchlist(
  { client, list: $("rows"), filter: $("filter"), empty: $("empty") },
  { select: (symbol) => select(symbol, view.resolution), update: (entry) => entry.symbol === view.symbol && quote() },
);

/**
 * The newest bars of a topic, oldest first. The one place that knows where history comes from.
 *
 * @param {string} symbol
 * @param {string} resolution
 * @param {number} count
 * @param {AbortSignal} signal  when it is no longer wanted
 * @returns {Promise<import("./barcast.js").Bar[]>} empty when the server has none
 */
function loadHistory(symbol, resolution, count, signal) {
  return new Promise((resolve) => {
    let timer;
    const finish = (bars) => {
      clearTimeout(timer);
      subscription.unsubscribe();
      resolve(bars);
    };
    const state = ({ name }) => {
      clearTimeout(timer);
      if (name === "open") timer = setTimeout(() => finish([]), HISTORY_WITHIN_MS);
    };
    const subscription = client.subscribe(`bars:${symbol}:${resolution}`, { snapshot: count }, { snapshot: finish, state });
    signal.addEventListener("abort", () => finish([]));
  });
}

/** Show a symbol, in the given resolution if it has it. */
async function select(symbol, wanted) {
  const resolution = resolutionFor(symbol, wanted);
  if (symbol === view.symbol && resolution === view.resolution) return;
  view.live?.unsubscribe();
  view.loader?.abort();
  const loader = new AbortController();
  Object.assign(view, { symbol, resolution, hovered: null, failure: "", loading: true, loader }, freshFlow());
  history.replaceState(null, "", `#${encodeURIComponent(symbol)}:${resolution}`);
  $("chart").setAttribute("aria-label", `Candles and volume of ${symbol}, ${format.labelOf(resolution).long}`);
  $("gap-box").hidden = true;
  chart.reset(resolution);
  chart.decimals = watchlist.entries.get(symbol)?.decimals ?? 2;
  watchlist.select(symbol);
  resolutions();
  redraw();

  view.live = client.subscribe(`bars:${symbol}:${resolution}`, {}, {
    bar: live,
    revision: (bar) => (chart.put(bar), redraw()),
    snapshot: (bars) => merged(mergeBars(chart.bars, bars)),
    gap,
    error: ({ message }) => {
      view.failure = message;
      redraw();
    },
  });
  const bars = await loadHistory(symbol, resolution, HISTORY_BARS, loader.signal);
  if (loader.signal.aborted) return;
  view.loading = false;
  // What came live meanwhile is newer than the history.
  merged(mergeBars(bars, chart.bars));
  chart.latest(false);
}

/** The wished resolution if the symbol has it, else minutes, else the finest. */
function resolutionFor(symbol, wanted) {
  const all = watchlist.entries.get(symbol)?.resolutions ?? [];
  if (all.length === 0) return wanted ?? DEFAULT_RESOLUTION;
  return [wanted, DEFAULT_RESOLUTION].find((r) => all.includes(r)) ?? all[0];
}

function merged(bars) {
  chart.decimals = format.decimalsOf(bars);
  chart.replace(bars);
  redraw();
}

function live(bar, { ts }) {
  const now = Date.now();
  if (view.arrived !== null) {
    const interval = now - view.arrived;
    view.interval = view.interval === null ? interval : view.interval * 0.8 + interval * 0.2;
  }
  view.arrived = now;
  view.arrivals.push(now);
  if (ts !== undefined && view.counted) {
    view.latencies.push(now - ts / 1000);
    if (view.latencies.length > LATENCIES_KEPT) view.latencies.shift();
  }
  // The first one is the current bar, sent on subscribing however old it is.
  view.counted = true;
  chart.put(bar);
  if (chart.bars.length === 1) chart.decimals = format.decimalsOf(chart.bars);
  if (bar.close !== null) watchlist.price(view.symbol, bar.close);
  redraw();
}

function gap() {
  view.gaps += 1;
  $("gap-box").hidden = false;
  $("gaps").textContent = String(view.gaps);
  if (performance.now() - view.refreshed < REFRESH_EVERY_MS) return;
  view.refreshed = performance.now();
  view.live.refresh(HISTORY_BARS);
}

// Drawing: once a frame, however many bars came.

let drawing = false;

function redraw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    quote();
    legend();
    note();
  });
}

function quote() {
  const { symbol } = view;
  const value = chart.bars.at(-1)?.close ?? watchlist.entries.get(symbol)?.price ?? null;
  $("quote").hidden = symbol === null;
  $("symbol").textContent = symbol ?? "";
  if (value === null) {
    $("price").textContent = "–";
    $("change").textContent = "";
    document.title = symbol ? `${symbol} · barcast` : "barcast";
    return;
  }
  const text = format.price(value, chart.decimals);
  $("price").textContent = text;
  document.title = `${text} ${symbol} · barcast`;
  const { base = null, reference } = watchlist.entries.get(symbol) ?? {};
  if (base === null) {
    $("change").textContent = "";
    return;
  }
  const { direction, percent } = format.change(base, value);
  const sign = direction === "up" ? "+" : direction === "down" ? "−" : "";
  $("change").textContent = `${sign}${format.price(Math.abs(value - base), chart.decimals)} (${percent})`;
  $("change").className = `change ${direction}`;
  $("change").title = `Since the open of the ${format.labelOf(reference).short} bar`;
}

function legend() {
  const bar = view.hovered ?? chart.bars.at(-1);
  const write = (name, text) => ($(`bar-${name}`).textContent = text);
  if (!bar) {
    for (const name of ["time", "open", "high", "low", "close", "volume"]) write(name, "–");
    delete $("legend").dataset.direction;
    return;
  }
  write("time", format.barTime(bar.time, view.resolution));
  for (const name of ["open", "high", "low", "close"]) write(name, format.price(bar[name], chart.decimals));
  write("volume", format.volume(bar.volume));
  $("legend").dataset.direction = bar.close >= bar.open ? "up" : "down";
}

function note() {
  const topic = `bars:${view.symbol}:${view.resolution}`;
  let text = "";
  if (view.failure) text = view.failure;
  else if (chart.bars.length > 0) text = "";
  else if (view.symbol === null) text = client.state.name === "open" ? "Waiting for the first topic" : "";
  else text = view.loading ? "Loading" : `Waiting for the first bar of ${topic}`;
  $("note").textContent = text;
  $("note").hidden = text === "";
}

function resolutions() {
  const all = [...(watchlist.entries.get(view.symbol)?.resolutions ?? [])];
  if (view.resolution && !all.includes(view.resolution)) all.push(view.resolution);
  const box = $("resolutions");
  const key = all.join();
  if (box.dataset.key !== key) {
    box.dataset.key = key;
    box.querySelectorAll("label").forEach((label) => label.remove());
    for (const resolution of all) box.append(resolutionButton(resolution));
  }
  for (const input of box.querySelectorAll("input")) {
    input.checked = input.value === view.resolution;
    if (input.checked) input.parentElement.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
}

function resolutionButton(resolution) {
  const { short, long } = format.labelOf(resolution);
  const label = document.createElement("label");
  const input = document.createElement("input");
  const text = document.createElement("span");
  Object.assign(input, { type: "radio", name: "resolution", value: resolution, ariaLabel: long });
  input.addEventListener("change", () => select(view.symbol, resolution));
  text.textContent = short;
  label.title = long;
  label.append(input, text);
  return label;
}

// Health: the connection, staleness and the figures below.

function connection() {
  const { name, retryAt, attempt = 0 } = client.state;
  // The first attempt after a loss is part of the same trouble for whoever looks.
  const shown = name === "connecting" && attempt > 0 ? "waiting" : name;
  const words = { connecting: "Connecting", open: "Live", waiting: "Reconnecting", closed: "Closed" };
  $("state").dataset.state = shown;
  if ($("state-name").textContent !== words[shown]) $("state-name").textContent = words[shown];
  $("state-detail").textContent = name === "waiting" ? `in ${Math.max(1, Math.ceil((retryAt - Date.now()) / 1000))} s` : "";
  $("retry").hidden = name !== "waiting";
  if (name !== "open") $("ping").textContent = "–";
  note();
}

function health() {
  connection();
  const now = Date.now();
  const silence = view.arrived === null ? 0 : now - view.arrived;
  const stale = client.state.name === "open" && silence > format.staleAfter(view.interval);
  $("stale").hidden = !stale;
  $("price").classList.toggle("old", stale || client.state.name !== "open");
  $("stale").textContent = stale ? `No update for ${format.age(silence)}` : "";

  const latency = view.latencies.length > 0 ? format.median(view.latencies) : null;
  // Below zero the publisher's clock is ahead of ours, and the figure means nothing.
  $("latency").textContent = latency === null || latency < -1 || client.state.name !== "open" ? "–" : format.milliseconds(latency);
  view.arrivals = view.arrivals.filter((at) => now - at < RATE_WINDOW_MS);
  const window = Math.min(RATE_WINDOW_MS, Math.max(1_000, now - view.from));
  $("rate").textContent = `${((view.arrivals.length / window) * 1000).toFixed(1)}/s`;

  const length = format.lengthOf(view.resolution ?? DEFAULT_RESOLUTION);
  const left = (chart.bars.at(-1)?.time ?? -Infinity) + length - now;
  $("countdown-box").hidden = left <= 0 || length > DAY_MS;
  $("countdown").textContent = format.countdown(left);
  const clock = new Date(now).toISOString();
  $("clock").textContent = clock.slice(11, 19);
  $("clock").dateTime = clock;
}

async function loadTopics() {
  if (client.state.name !== "open") return;
  try {
    const response = await fetch(TOPICS_URL, { headers: { accept: "application/json" } });
    if (!response.ok) return;
    watchlist.topics((await response.json()).topics);
  } catch {
    // The connection's state already says that the server cannot be reached; the next turn tries again.
    return;
  }
  if (view.symbol !== null) return resolutions();
  const first = watchlist.entries.keys().next().value;
  if (first !== undefined) select(first, DEFAULT_RESOLUTION);
}

/** `#AAPL:5` in the address names what to show. */
function fromAddress() {
  const [, symbol, resolution] = /^#([^:]+):([^:]+)$/.exec(location.hash) ?? [];
  if (symbol) select(decodeURIComponent(symbol), resolution);
}

function themeNow() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

function themed() {
  chart.theme();
  const other = themeNow() === "dark" ? "Light" : "Dark";
  $("theme").ariaLabel = `${other} theme`;
  $("theme").title = `${other} theme`;
}

$("theme").addEventListener("click", () => {
  const theme = themeNow() === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("barcast.theme", theme);
  } catch {
    // Storage may be forbidden; the choice then holds for this page.
  }
  themed();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", themed);
$("retry").addEventListener("click", () => client.reconnect());
$("latest").addEventListener("click", () => chart.latest());
addEventListener("hashchange", fromAddress);
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target instanceof HTMLInputElement) return;
  event.preventDefault();
  $("filter").focus();
});

themed();
fromAddress();
health();
redraw();
setInterval(health, 1_000);
setInterval(() => document.hidden || loadTopics(), TOPICS_EVERY_MS);
