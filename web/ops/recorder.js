/** What the gateway told over the last minutes. No DOM, so that it can be tested. */

import { byLabel, value } from "./openmetrics.js";
import { observations, percentile, rate, rates } from "./rates.js";

/** What is kept and can be plotted, in ms. */
export const KEPT_MS = 600_000;
/** Percentiles are of the last so many ms: a single look may see a handful of bars. */
export const LAG_WINDOW_MS = 10_000;
/** Workers with a line of their own; a machine with more shows the busiest. */
export const WORKERS_SHOWN = 8;

/** Reasons for a delivery that did not go out as it came, as the counters tell them. */
const LOST = ["slow_client", "disconnected"];

/**
 * @typedef {import("./rates.js").Look} Look
 * @typedef {{at: number, values: Record<string, number|null>}} Point  `values` is empty where nothing is known
 */

export class Recorder {
  /** @type {Point[]} oldest first */
  points = [];
  /** @type {Look[]} of the last `LAG_WINDOW_MS`; empty after a failure */
  #looks = [];

  /** @returns {Look|null} the newest, unless the gateway has been out of reach since */
  get latest() {
    return this.#looks.at(-1) ?? null;
  }

  /** @param {Look} look */
  take(look) {
    const before = this.#looks.at(-1) ?? null;
    this.#looks.push(look);
    while (this.#looks.length > 2 && this.#looks[1].at <= look.at - LAG_WINDOW_MS) this.#looks.shift();
    this.#add({ at: look.at, values: { ...now(look), ...(before ? flow(before, look) : {}), ...this.#lags() } });
  }

  /** Nothing came: a hole in every plot, and no rate across it. @param {number} at */
  miss(at) {
    this.#looks = [];
    if (Object.keys(this.points.at(-1)?.values ?? {}).length > 0) this.#add({ at, values: {} });
  }

  /** @param {string} name @returns {number|null} the newest value */
  last(name) {
    return this.points.at(-1)?.values[name] ?? null;
  }

  #add(point) {
    this.points.push(point);
    while (this.points[0].at < point.at - KEPT_MS) this.points.shift();
  }

  #lags() {
    if (this.#looks.length < 2) return {};
    const buckets = observations(this.#looks[0], this.#looks.at(-1), "barcast_lag_seconds");
    const of = (quantile) => percentile(buckets, quantile);
    return { p50: of(0.5), p90: of(0.9), p99: of(0.99), lagged: buckets.reduce((sum, { count }) => sum + count, 0) };
  }
}

/** What a single look tells. @param {Look} look */
function now({ figures }) {
  const of = (name) => value(figures, name);
  return {
    clients: of("barcast_clients"),
    memory: of("process_resident_memory_bytes"),
    files: of("process_open_fds"),
  };
}

/** What two looks tell. @param {Look} before @param {Look} look */
function flow(before, look) {
  const of = (name, labels) => rate(before, look, name, labels);
  const values = {
    received: of("barcast_received_bars_total"),
    due: of("barcast_due_bars_total"),
    delivered: of("barcast_delivered_bars_total"),
    conflated: of("barcast_conflated_bars_total"),
    unsubscribed: of("barcast_unsubscribed_bars_total"),
    bytes: of("barcast_sent_bytes_total"),
    writes: of("barcast_writes_total"),
    accepted: of("barcast_accepted_clients_total"),
    refused: sum(rates(before, look, "barcast_refused_clients_total", "reason")),
    closed: sum(rates(before, look, "barcast_closed_clients_total", "code")),
    dropped: sum(rates(before, look, "barcast_dropped_messages_total", "reason")),
    cpu: of("process_cpu_seconds_total"),
  };
  for (const reason of LOST) values[reason] = of("barcast_gapped_bars_total", { reason });
  for (const [worker, busy] of rates(before, look, "barcast_worker_busy_seconds_total", "worker")) {
    // A turn counts when it ends, so a look may see a little more than the time between.
    values[`busy ${worker}`] = Math.min(busy, 1);
  }
  return values;
}

function sum(numbers) {
  return numbers.size === 0 ? null : [...numbers.values()].reduce((total, each) => total + each, 0);
}

/**
 * The workers with their load, in their order.
 *
 * @param {Recorder} recorder
 */
export function workers(recorder) {
  const figures = recorder.latest?.figures ?? new Map();
  const waiting = byLabel(figures, "barcast_worker_waiting_bytes", "worker");
  return [...byLabel(figures, "barcast_worker_clients", "worker")].map(([worker, clients]) => {
    return { worker, clients, busy: recorder.last(`busy ${worker}`), waiting: waiting.get(worker) ?? null };
  });
}
