/** What changed between two looks at `/metrics`. No DOM, so that it can be tested. */

import { byLabel, value } from "./openmetrics.js";

/**
 * @typedef {import("./openmetrics.js").Figures} Figures
 * @typedef {{at: number, figures: Figures}} Look  `at` in ms of a clock that only goes forward
 */

/**
 * How much a counter grew. One that is smaller than before began anew with its process, so that all it shows
 * has come since.
 *
 * @param {number|null} before
 * @param {number|null} now
 * @returns {number|null}
 */
export function increase(before, now) {
  if (before === null || now === null) return null;
  return now >= before ? now - before : now;
}

/**
 * Growth of a counter per second.
 *
 * @param {Look} before
 * @param {Look} now
 * @param {string} name
 * @param {Record<string, string>} [labels]
 * @returns {number|null} `null` without both figures, or without time between
 */
export function rate(before, now, name, labels) {
  const grown = increase(value(before.figures, name, labels), value(now.figures, name, labels));
  const seconds = (now.at - before.at) / 1_000;
  return grown === null || seconds <= 0 ? null : grown / seconds;
}

/**
 * Growth per second of each member of a family. One that was not there before has grown from nothing.
 *
 * @param {Look} before
 * @param {Look} now
 * @param {string} name
 * @param {string} label
 * @returns {Map<string, number>}
 */
export function rates(before, now, name, label) {
  const seconds = (now.at - before.at) / 1_000;
  if (seconds <= 0) return new Map();
  const earlier = byLabel(before.figures, name, label);
  const grown = [...byLabel(now.figures, name, label)].map(([key, count]) => [key, increase(earlier.get(key) ?? 0, count) / seconds]);
  return new Map(grown);
}

/**
 * Observations of a histogram between two looks, by upper bound, not added up.
 *
 * @param {Look} before
 * @param {Look} now
 * @param {string} name  without `_bucket`
 * @returns {{upper: number, count: number}[]} by rising bound
 */
export function observations(before, now, name) {
  const bounds = (look) => new Map([...byLabel(look.figures, `${name}_bucket`, "le")].map(([le, count]) => [le === "+Inf" ? Infinity : Number(le), count]));
  const [earlier, later] = [bounds(before), bounds(now)];
  // Judged by the whole: after a restart some buckets may already hold more than before.
  const all = Infinity;
  const began = (later.get(all) ?? 0) < (earlier.get(all) ?? 0) || startedAnew(before, now);
  let below = 0;
  return [...later].sort(([a], [b]) => a - b).map(([upper, count]) => {
    const grown = Math.max(count - (began ? 0 : (earlier.get(upper) ?? 0)), below);
    const own = grown - below;
    below = grown;
    return { upper, count: own };
  });
}

/** Whether another process answers than before. */
export function startedAnew(before, now) {
  const [earlier, later] = [before, now].map((look) => value(look.figures, "process_start_time_seconds"));
  return earlier !== null && later !== null && earlier !== later;
}

/**
 * A quantile, as Prometheus's histogram_quantile tells it: even spread within a bucket.
 *
 * @param {{upper: number, count: number}[]} buckets
 * @param {number} quantile 0 to 1
 * @returns {number|null} `null` when nothing was observed; `Infinity` when it is above the last bound
 */
export function percentile(buckets, quantile) {
  const total = buckets.reduce((sum, { count }) => sum + count, 0);
  if (total === 0) return null;
  const rank = quantile * total;
  let below = 0;
  let lower = 0;
  for (const { upper, count } of buckets) {
    if (count > 0 && below + count >= rank) {
      return upper === Infinity ? Infinity : lower + ((upper - lower) * (rank - below)) / count;
    }
    below += count;
    lower = upper;
  }
  return Infinity;
}
