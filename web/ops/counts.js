/** What was lost, refused and closed, and why. No DOM, so that it can be tested. */

import { byLabel, value } from "./openmetrics.js";
import { increase } from "./rates.js";

/** Families by one label, and what to say of their members. */
const FAMILIES = [
  { name: "barcast_gapped_bars_total", label: "reason", say: { slow_client: "Deliveries lost: slow client, told by bars.gap", disconnected: "Deliveries lost: client left first" }, level: { slow_client: "warn" } },
  { name: "barcast_dropped_messages_total", label: "reason", say: (reason) => `Messages dropped: ${reason}`, level: "warn" },
  { name: "barcast_refused_clients_total", label: "reason", say: (reason) => `Connections refused: ${reason}`, level: { draining: "", "": "warn" } },
  { name: "barcast_limited_requests_total", label: "limit", say: (limit) => `Subscriptions refused: ${limit}` },
  {
    name: "barcast_closed_clients_total",
    label: "code",
    say: {
      1000: "Closed with 1000: client said goodbye",
      1001: "Closed with 1001: going away",
      1002: "Closed with 1002: protocol error",
      1003: "Closed with 1003: binary message",
      1007: "Closed with 1007: not UTF-8",
      1008: "Closed with 1008: policy",
      1009: "Closed with 1009: message too large",
      4408: "Closed with 4408: silent",
      4429: "Closed with 4429: too fast",
      4503: "Closed with 4503: slow client",
    },
    level: { 4503: "warn" },
  },
];
/** Counters without a label. */
const PLAIN = [
  { name: "barcast_conflated_bars_total", say: "Deliveries replaced by a newer update" },
  { name: "barcast_unsubscribed_bars_total", say: "Deliveries no longer wanted" },
  { name: "barcast_upstream_gaps_total", say: "Holes in what came from Redis", level: "warn" },
  { name: "barcast_bus_reconnects_total", say: "Connections to Redis made again", level: "warn" },
  { name: "barcast_store_failures_total", say: "Readings of the store that failed", level: "warn" },
  { name: "barcast_ticks_late_total", say: "Ticks of the generator left out", level: "warn" },
  { name: "barcast_unpublished_bars_total", say: "Bars of the generator not published", level: "warn" },
];

/** @typedef {{key: string, what: string, level: string, total: number, grown: number}} Count */

function wordOf(say, member) {
  return typeof say === "function" ? say(member) : (say[member] ?? member);
}

function levelOf(level, member) {
  return typeof level === "object" ? (level[member] ?? level[""] ?? "") : (level ?? "");
}

/** @param {import("./openmetrics.js").Figures} figures @returns {Omit<Count, "grown">[]} */
function totals(figures) {
  const found = [];
  for (const { name, label, say, level } of FAMILIES) {
    for (const [member, total] of byLabel(figures, name, label)) {
      found.push({ key: `${name} ${member}`, what: wordOf(say, member), level: levelOf(level, member), total });
    }
  }
  for (const { name, say, level } of PLAIN) {
    const total = value(figures, name);
    if (total !== null) found.push({ key: name, what: say, level: level ?? "", total });
  }
  return found;
}

/** Counts since the page was opened, over restarts of the gateway. */
export class Counts {
  /** @type {Map<string, {total: number, grown: number}>|null} */
  #before = null;
  /** @type {Count[]} */
  all = [];

  /** @param {import("./openmetrics.js").Figures} figures */
  take(figures) {
    this.all = totals(figures).map((count) => {
      const before = this.#before?.get(count.key);
      // What was there when the page was opened was not seen here.
      const grown = this.#before ? (before?.grown ?? 0) + increase(before?.total ?? 0, count.total) : 0;
      return { ...count, grown };
    });
    this.#before = new Map(this.all.map((count) => [count.key, count]));
  }

  /** What has happened at all. */
  get happened() {
    return this.all.filter(({ total, grown }) => total > 0 || grown > 0);
  }
}
