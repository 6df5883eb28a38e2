/**
 * The chart page: one, two or four charts, a watchlist, and what tells how the bars flow.
 *
 * `window.barcast` is there for tests and for the console: `client` (of barcast.js) and `panels`, each with its
 * `symbol`, `resolution`, `joined` and `bars`.
 */

import { connect } from "./barcast.js";
import { clock } from "./clock.js";
import { Connection } from "./connection.js";
import * as format from "./format.js";
import { COUNTS, extend, parseLayout, writeLayout } from "./layout.js";
import { Listing } from "./listing.js";
import { Panel } from "./panel.js";
import { presence } from "./presence.js";
import { ask, pause } from "./request.js";
import { Search } from "./search.js";
import { Watchlist } from "./watchlist.js";

/** The smallest answer of the gateway, for its time. */
const TIME_URL = "udf/time";
/** Between two times that the gateway's time is made sure of: once a page, and after a sleep or another clock. */
const SHARPEN_EVERY_MS = 10_000;
/** A round trip that somebody looks at should not be much older. */
const PING_EVERY_MS = 3_000;
const DEFAULT_RESOLUTION = "1";
const DAY_MS = 86_400_000;
const LAYOUT_KEY = "barcast.layout";

const $ = (id) => document.getElementById(id);

/** @type {Panel[]} */
const panels = [];
/** The one that the watchlist, the search and the resolutions act on. */
let active = 0;
/** What charts showed that were closed, for when they are opened again. */
let closed = [];
/** When the gateway's time may be made sure of again, on the monotonic clock. */
let sharpenDue = 0;

const connection = new Connection({
  mark: $("state"), word: $("state-name"), notice: $("notice"), text: $("notice-text"), count: $("notice-count"), retry: $("retry"),
});

const client = connect(undefined, {
  state: (state) => {
    connection.state(state);
    if (state.name === "open") {
      panels.forEach((panel) => panel.found());
      listing.soon();
      sharpen();
    } else {
      panels.forEach((panel) => panel.lost());
      $("ping").textContent = "–";
    }
    health();
  },
  pingEvery: PING_EVERY_MS,
  ping: (ms) => ($("ping").textContent = format.milliseconds(ms)),
});

const watchlist = new Watchlist(
  { client, list: $("rows"), filter: $("filter"), empty: $("empty") },
  {
    select: (symbol) => show(symbol),
    update: ({ symbol }) => panels.forEach((panel) => panel.symbol === symbol && panel.redraw()),
  },
);

const listing = new Listing({
  isWanted: () => connection.isOpen && !document.hidden,
  // Of a list that is known, what has changed can wait for its end.
  part: (topics) => hasListed || listed(topics, false),
  whole: (topics) => {
    const known = watchlist.entries.size;
    hasListed = true;
    listed(topics, true);
    return watchlist.entries.size !== known;
  },
  failed: (why) => watchlist.failed(why),
});
/** Whether a whole list has come. */
let hasListed = false;

const search = new Search($("search"), (symbol) => show(symbol));

window.barcast = { client, panels };

// The charts.

/** Shows a symbol on the active chart, in the given resolution or as near to the present one as it has. */
function show(symbol, resolution = panels[active].resolution) {
  panels[active].show(symbol, resolutionFor(symbol, resolution));
  remember();
  followActive();
}

/** The wished resolution if the symbol has it, else minutes, else the finest. */
function resolutionFor(symbol, wanted) {
  const all = watchlist.entries.get(symbol)?.resolutions ?? [];
  if (all.length === 0) return wanted ?? DEFAULT_RESOLUTION;
  return [wanted, DEFAULT_RESOLUTION].find((r) => all.includes(r)) ?? all[0];
}

/** Shows so many charts. */
function setCount(count) {
  const shown = panels.map((panel) => panel.spec).filter(({ symbol }) => symbol !== null);
  const specs = extend([...shown, ...closed], count, watchlist.entries);
  closed = [...shown, ...closed].slice(count);
  arrange(count, specs);
  remember();
}

/** Makes as many charts as are wanted, and lets each show what it should. */
function arrange(count, specs) {
  while (panels.length > count) panels.pop().remove();
  $("grid").dataset.count = String(count);
  while (panels.length < count) addPanel();
  active = Math.min(active, count - 1);
  specs.forEach(({ symbol, resolution }, nth) => panels[nth]?.show(symbol, resolution));
  for (const input of $("counts").querySelectorAll("input")) input.checked = Number(input.value) === count;
  followActive();
}

function addPanel() {
  const panel = new Panel({ client, template: $("panel"), entry: (symbol) => watchlist.entries.get(symbol), logo: panels.length === 0 }, {
    focus: () => activate(panels.indexOf(panel)),
    search: () => search.open(),
    price: (symbol, close) => watchlist.price(symbol, close),
    filled: (bars) => connection.filled(bars),
    loading: (history) => listing.behind(history),
    drawn: () => panel === panels[active] && title(),
    say: (text) => ($("said").textContent = text),
  });
  panels.push(panel);
  $("grid").append(panel.element);
  panel.mount();
}

function activate(nth) {
  if (nth === active || nth < 0) return;
  active = nth;
  followActive();
}

/** What stands around the charts follows the active one. */
function followActive() {
  panels.forEach((panel, nth) => panel.element.classList.toggle("active", nth === active && panels.length > 1));
  const { symbol } = panels[active];
  if (symbol !== null) watchlist.select(symbol);
  resolutions();
  title();
  health();
}

function title() {
  const { symbol, price } = panels[active];
  document.title = [price, symbol].filter(Boolean).join(" ") + (symbol ? " · barcast" : "barcast");
}

// The layout, in the address and for the next visit.

function remember() {
  const specs = panels.map((panel) => panel.spec);
  if (specs.some(({ symbol }) => symbol === null)) return;
  const text = writeLayout(specs);
  history.replaceState(null, "", `#${text}`);
  try {
    localStorage.setItem(LAYOUT_KEY, text);
  } catch {
    // Storage may be forbidden; the address still holds it.
  }
}

function remembered() {
  try {
    return localStorage.getItem(LAYOUT_KEY) ?? "";
  } catch {
    return "";
  }
}

function fromAddress() {
  const specs = parseLayout(location.hash.slice(1));
  if (specs.length === 0) return false;
  arrange(specs.length, specs);
  remember();
  return true;
}

// What surrounds them.

function resolutions() {
  const { symbol, resolution } = panels[active];
  const all = [...(watchlist.entries.get(symbol)?.resolutions ?? [])];
  if (resolution && !all.includes(resolution)) all.push(resolution);
  const box = $("resolutions");
  const key = all.join();
  if (box.dataset.key !== key) {
    box.dataset.key = key;
    box.querySelectorAll("label").forEach((label) => label.remove());
    for (const each of all) box.append(resolutionButton(each));
  }
  for (const input of box.querySelectorAll("input")) {
    input.checked = input.value === resolution;
    if (input.checked) input.parentElement.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
}

function resolutionButton(resolution) {
  const { short, long } = format.labelOf(resolution);
  const label = document.createElement("label");
  const input = document.createElement("input");
  const text = document.createElement("span");
  Object.assign(input, { type: "radio", name: "resolution", value: resolution, ariaLabel: long });
  input.addEventListener("change", () => show(panels[active].symbol, resolution));
  text.textContent = short;
  label.title = long;
  label.append(input, text);
  return label;
}

/** Once a second: the connection, staleness and the figures below. */
function health() {
  presence.tick();
  connection.draw();
  if ((clock.isDoubtful || !clock.isSharp) && connection.isOpen) sharpen();
  panels.forEach((panel) => panel.tick(connection.isOpen));
  const now = clock.now();
  const iso = new Date(now).toISOString();
  $("clock").textContent = iso.slice(11, 19);
  $("clock").dateTime = iso;
  if (!panels[active]) return;
  const { latency, rate, gaps } = panels[active].figures;
  $("latency").textContent = latency === null || !connection.isOpen ? "–" : format.milliseconds(latency);
  $("rate").textContent = `${rate.toFixed(1)}/s`;
  $("gap-box").hidden = gaps === 0;
  $("gaps").textContent = String(gaps);
  const length = format.lengthOf(panels[active].resolution ?? DEFAULT_RESOLUTION);
  const left = (panels[active].bars.at(-1)?.time ?? -Infinity) + length - now;
  $("countdown-box").hidden = left <= 0 || length > DAY_MS;
  $("countdown").textContent = format.countdown(left);
}

/** Topics have come: all of them, or the first pages. */
function listed(topics, isWhole) {
  watchlist.topics(topics, isWhole);
  const first = watchlist.entries.keys().next().value;
  if (panels[0].symbol === null && first !== undefined) show(first, DEFAULT_RESOLUTION);
  else followActive();
}

/** Makes sure of the gateway's time. Without an answer the present idea of it stays. */
async function sharpen() {
  if (performance.now() < sharpenDue) return;
  sharpenDue = Infinity;
  await clock.sharpen(() => ask(TIME_URL), pause).catch(() => {});
  sharpenDue = performance.now() + SHARPEN_EVERY_MS;
}

// Light and dark.

function themeNow() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

function themed() {
  panels.forEach((panel) => panel.theme());
  const other = themeNow() === "dark" ? "Light" : "Dark";
  $("theme").ariaLabel = `${other} theme`;
  $("theme").title = `${other} theme (t)`;
}

function switchTheme() {
  const theme = themeNow() === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("barcast.theme", theme);
  } catch {
    // The choice then holds for this page.
  }
  themed();
}

// Keys; those of a chart are the panel's.

function stepResolution(by) {
  const all = [...$("resolutions").querySelectorAll("input")].map((input) => input.value);
  const to = all[all.indexOf(panels[active].resolution) + by];
  if (to !== undefined) show(panels[active].symbol, to);
}

function stepPanel(by) {
  activate((active + by + panels.length) % panels.length);
  panels[active].element.querySelector(".chart").focus();
}

const keys = {
  "/": () => search.open(),
  "?": () => $("help").showModal(),
  j: () => watchlist.step(1),
  k: () => watchlist.step(-1),
  "[": () => stepResolution(-1),
  "]": () => stepResolution(1),
  n: () => stepPanel(1),
  p: () => stepPanel(-1),
  t: switchTheme,
  ...Object.fromEntries(COUNTS.map((count) => [String(count), () => setCount(count)])),
};

document.addEventListener("keydown", (event) => {
  const isTyping = event.target instanceof HTMLInputElement && event.target.type !== "radio";
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (!keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
});

$("find").addEventListener("click", () => search.open());
$("ask").addEventListener("click", () => $("help").showModal());
$("help-close").addEventListener("click", () => $("help").close());
$("help").addEventListener("click", (event) => event.target === $("help") && $("help").close());
$("theme").addEventListener("click", switchTheme);
$("retry").addEventListener("click", () => client.reconnect());
$("counts").addEventListener("change", (event) => setCount(Number(event.target.value)));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", themed);
addEventListener("hashchange", fromAddress);
addEventListener("online", () => client.reconnect());
document.addEventListener("visibilitychange", () => listing.turn());
presence.watch(document);

if (!fromAddress()) {
  const specs = parseLayout(remembered());
  arrange(Math.max(1, specs.length), specs);
}
themed();
setInterval(health, 1_000);
setInterval(() => listing.turn(), 1_000);
// For support.js: from here on the page itself says what is wrong.
document.documentElement.dataset.started = "";
