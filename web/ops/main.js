/** The operator's page: asks this gateway for its figures every other second and shows the last minutes. */

import { clock } from "../clock.js";
import { Sleep } from "../presence.js";
import { ask } from "../request.js";
import { Counts } from "./counts.js";
import { byLabel, parse, value } from "./openmetrics.js";
import { Plot } from "./plot.js";
import { KEPT_MS, Recorder, WORKERS_SHOWN, workers } from "./recorder.js";
import { tiles } from "./tiles.js";
import { Topics, arrange } from "./topics.js";
import * as units from "./units.js";

/** Between two looks. */
const EVERY_MS = 2_000;
/** A gateway that sends nothing for so long is out of reach; on a slow link, some of an answer comes all the time. */
const SILENT_MS = 5_000;
/** The list of so many topics is some 100 kB: longer ones are asked for less often. */
const MANY_TOPICS = 500;
const MANY_EVERY_MS = 10_000;
const MINUTE_MS = 60_000;
const THEME_KEY = "barcast.theme";

const $ = (id) => document.getElementById(id);
const recorder = new Recorder();
const counts = new Counts();
const topics = new Topics();
const wish = { by: "subscribers", descending: true, filter: "", most: 20 };
const slept = { figures: new Sleep(), topics: new Sleep() };
/** `opened` on the monotonic clock, `failedSince` as people read it. */
const view = { opened: performance.now(), span: 2 * MINUTE_MS, topicsKnown: false, topicsWhy: "", failedSince: null, failedWhy: "", asked: false };

const rate = units.perSecond;
const plots = [
  { title: "Delivered", hint: "Deliveries whose whole frame the kernel took", write: rate, lines: [["delivered", "Delivered"], ["due", "Due"]] },
  { title: "Not delivered as they came", hint: "Replaced by a newer update; lost by slow clients, who are told; waiting when the client left or unsubscribed", write: rate, least: 1, lines: [["conflated", "Conflated"], ["slow_client", "Gapped"], ["disconnected", "Client left"], ["unsubscribed", "Unsubscribed"]] },
  { title: "Lag", hint: "From the publisher's time stamp to the last send, over 10 seconds", write: units.lag, none: "No bar with a time stamp was sent", lines: [["p99", "p99"], ["p90", "p90"], ["p50", "p50"]] },
  { title: "Clients", hint: "WebSocket clients now", write: units.count, least: 4, lines: [["clients", "Clients"]] },
  { title: "Clients coming and going", hint: "Let in, refused, and closed by this gateway", write: rate, least: 1, lines: [["accepted", "Accepted"], ["refused", "Refused"], ["closed", "Closed"]] },
  { title: "From Redis", hint: "Valid bars received, and messages dropped because they were malformed", write: rate, least: 1, lines: [["received", "Bars"], ["dropped", "Dropped"]] },
  { title: "Worker load", hint: "Share of the time in which a worker did not wait", write: units.percent, least: 0.04, lines: [] },
  { title: "Processor, in cores", hint: "Cores' worth of time that the process used", write: units.cores, mark: units.count, least: 0.04, lines: [["cpu", "CPU"]], none: "This system does not tell" },
  { title: "Memory", hint: "In RAM", write: units.bytes, base: 1_024, lines: [["memory", "Resident"]], none: "This system does not tell" },
  { title: "Sent to clients", hint: "Bytes that client sockets took", write: units.bytesPerSecond, base: 1_024, lines: [["bytes", "Sent"]] },
].map(({ lines, ...options }) => {
  const coloured = lines.map(([name, label], nth) => ({ name, label, colour: nth + 1 }));
  return new Plot($("plots"), { ...options, lines: coloured });
});
const WORKER_PLOT = 6;

/** With an end that tells a whole answer from one that was cut off. */
const METRICS = "application/openmetrics-text; version=1.0.0";

async function look() {
  try {
    const { text, at } = await ask("metrics", { silent: SILENT_MS, accept: METRICS });
    const figures = parse(text);
    // Counters went on over a sleep, and the monotonic clock may not have: no rate over that time.
    if (slept.figures.passed()) recorder.miss(at);
    recorder.take({ at, figures });
    counts.take(figures);
    view.failedSince = null;
  } catch (why) {
    recorder.miss(performance.now());
    view.failedSince ??= units.clock(clock.now());
    view.failedWhy = why.message;
  }
  view.asked = true;
  show();
}

/** The list of topics has a turn of its own: on a slow link it may take longer than several looks. */
async function list() {
  try {
    const { text, at } = await ask("api/v1/topics", { silent: SILENT_MS });
    if (slept.topics.passed()) topics.miss();
    topics.take(JSON.parse(text), at);
    [view.topicsKnown, view.topicsWhy] = [true, ""];
  } catch (why) {
    topics.miss();
    view.topicsWhy = why.message;
  }
  show();
}

/** Again and again, at least `every()` ms from begin to begin and half of it from end to begin. */
async function repeat(turn, every) {
  for (;;) {
    const began = performance.now();
    await turn();
    const rest = Math.max(every() / 2, every() - (performance.now() - began));
    await new Promise((resolve) => setTimeout(resolve, rest));
  }
}

function element(name, className, text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

function row(head, cells, level = "") {
  const made = element("tr");
  if (level) made.dataset.level = level;
  const first = element("th", "", head);
  first.scope = "row";
  made.append(first, ...cells.map((text) => element("td", "", text)));
  return made;
}

function empty(text, columns) {
  const made = element("tr", "none");
  const cell = element("td", "", text);
  cell.colSpan = columns;
  made.append(cell);
  return made;
}

function show() {
  if (!view.asked) return;
  link();
  const figures = recorder.latest?.figures ?? null;
  about(figures);
  showTiles(figures);
  const end = performance.now();
  plots[WORKER_PLOT].lines = workerLines();
  for (const plot of plots) plot.show(recorder.points, { span: view.span, end, epoch: timeOf(end) });
  showWorkers();
  showCounts();
  showTopics(figures);
}

/** The gateway's time at a moment of the monotonic clock, in ms since the epoch. */
function timeOf(moment) {
  return moment + clock.offset;
}

function link() {
  const lost = view.failedSince !== null;
  $("link").dataset.link = lost ? "lost" : "live";
  // Told to screen readers when it changes, not with every look.
  const name = lost ? "Out of reach" : "Live";
  if ($("link-name").textContent !== name) $("link-name").textContent = name;
  const text = `This gateway cannot be reached since ${view.failedSince} (${view.failedWhy}). Trying again every ${EVERY_MS / 1_000} seconds; what is below is from before.`;
  $("banner").hidden = !lost;
  if (lost && $("banner").textContent !== text) $("banner").textContent = text;
  document.body.classList.toggle("ops-lost", lost);
}

function about(figures) {
  if (!figures) return;
  const version = figures.get("barcast_build_info")?.[0].labels.version;
  const started = value(figures, "process_start_time_seconds");
  const up = started === null ? null : Math.max(0, clock.now() / 1_000 - started);
  const parts = [location.host, version && `barcast ${version}`, up !== null && `up ${units.duration(up)}`];
  $("about").textContent = parts.filter(Boolean).join(" · ");
}

function showTiles(figures) {
  const made = tiles(figures, recorder).map(({ id, name, text, more, level }) => {
    const tile = element("div", "ops-tile");
    tile.id = `tile-${id}`;
    if (level) tile.dataset.level = level;
    tile.append(element("dt", "", name), element("dd", "ops-value", text), element("dd", "ops-more", more));
    return tile;
  });
  $("tiles").replaceChildren(...made);
}

/** The busiest workers by their number, so that lines keep their colours. */
function workerLines() {
  const busiest = workers(recorder).sort((a, b) => (b.busy ?? 0) - (a.busy ?? 0)).slice(0, WORKERS_SHOWN);
  const names = busiest.map(({ worker }) => Number(worker)).sort((a, b) => a - b);
  return names.map((worker, nth) => ({ name: `busy ${worker}`, label: `Worker ${worker}`, colour: nth + 1 }));
}

function showWorkers() {
  const rows = workers(recorder).map(({ worker, clients, busy, waiting }) => {
    return row(worker, [units.whole(clients), units.percent(busy), units.bytes(waiting)]);
  });
  $("workers").replaceChildren(...(rows.length > 0 ? rows : [empty("No data", 4)]));
}

function showCounts() {
  const rows = counts.happened.map(({ what, level, total, grown }) => row(what, [units.whole(grown), units.whole(total)], grown > 0 ? level : ""));
  const none = counts.all.length > 0 ? "Nothing was lost, refused or closed" : "No data";
  $("counts").replaceChildren(...(rows.length > 0 ? rows : [empty(none, 3)]));
  $("counts-note").textContent = `Only what has happened is listed: since this page was opened at ${units.clock(timeOf(view.opened))}, and since the gateway started.`;
}

function showTopics(figures) {
  const watched = figures ? byLabel(figures, "barcast_topic_subscribers", "topic") : new Map();
  const others = watched.get("others") ?? 0;
  watched.delete("others");
  const { shown, matching } = arrange(topics.rows(watched), wish);
  const rows = shown.map(({ topic, subscribers, rate: perSecond, due, messages }) => {
    return row(topic, [units.whole(subscribers), units.count(perSecond), units.count(due), units.whole(messages)]);
  });
  const none = wish.filter ? "No topic matches" : !view.topicsKnown ? "No data" : "No topics: nobody publishes or subscribes";
  $("topics").replaceChildren(...(rows.length > 0 ? rows : [empty(none, 5)]));
  const notes = [`${units.whole(shown.length)} of ${units.whole(matching)} shown`];
  if (topics.total > topics.listed) notes.push(`the gateway lists ${units.whole(topics.listed)} of its ${units.whole(topics.total)} by name, and the most watched`);
  if (others > 0) notes.push(`${units.whole(others)} subscriptions are of topics beyond the 100 most watched`);
  if (view.topicsWhy && view.failedSince === null) notes.push(`the list of topics could not be loaded (${view.topicsWhy}) and is from before`);
  const note = notes.join("; ");
  if ($("topics-note").textContent !== note) $("topics-note").textContent = note;
  for (const head of document.querySelectorAll("#topics-table th[data-by]")) {
    const sorted = head.dataset.by === wish.by;
    if (sorted) head.setAttribute("aria-sort", wish.descending ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function theme(name) {
  if (name) {
    document.documentElement.dataset.theme = name;
    try {
      localStorage.setItem(THEME_KEY, name);
    } catch {
      // Storage may be forbidden; the choice holds for this page then.
    }
  }
  $("theme").setAttribute("aria-label", isDark() ? "Light theme" : "Dark theme");
}

$("theme").addEventListener("click", () => theme(isDark() ? "light" : "dark"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => theme());
$("span").addEventListener("change", (event) => {
  view.span = Math.min(Number(event.target.value) * MINUTE_MS, KEPT_MS);
  show();
});
$("filter").addEventListener("input", (event) => {
  wish.filter = event.target.value;
  show();
});
$("most").addEventListener("change", (event) => {
  wish.most = Number(event.target.value);
  show();
});
for (const head of document.querySelectorAll("#topics-table th[data-by]")) {
  head.firstElementChild.addEventListener("click", () => {
    // The first click on figures shows the largest, on names the first.
    wish.descending = head.dataset.by === wish.by ? !wish.descending : head.dataset.by !== "topic";
    wish.by = head.dataset.by;
    show();
  });
}
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, select, textarea");
  if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  $("filter").focus();
});
theme();
repeat(look, () => EVERY_MS);
repeat(list, () => (topics.total > MANY_TOPICS ? MANY_EVERY_MS : EVERY_MS));
// For support.js: from here on the page itself says what is wrong.
document.documentElement.dataset.started = "";
