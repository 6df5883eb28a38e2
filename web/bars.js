/** Lists of bars, and the history they come from. No DOM. */

import { askJson } from "./request.js";

/** @typedef {import("./barcast.js").Bar} Bar */

/**
 * Puts one bar into a list that is sorted by time, in place.
 *
 * @param {Bar[]} bars
 * @param {Bar} bar
 * @returns {"appended"|"replaced"|"revised"|"inserted"}  a new last bar, the last one's newer state, a change to an
 *   earlier bar, or an earlier one that was missing
 */
export function putBar(bars, bar) {
  const at = bars.findLastIndex(({ time }) => time <= bar.time);
  const known = at >= 0 && bars[at].time === bar.time;
  const last = at === bars.length - 1;
  if (known) bars[at] = bar;
  else bars.splice(at + 1, 0, bar);
  if (known) return last ? "replaced" : "revised";
  return last ? "appended" : "inserted";
}

/** The newest close; null without one: an interval without trades has none. */
export function lastClose(bars) {
  return bars.findLast(({ close }) => close !== null)?.close ?? null;
}

/**
 * Bars by TradingView's UDF, the newest `count` before `to`.
 *
 * @param {string} symbol
 * @param {string} resolution
 * @param {{count: number, to?: number, signal?: AbortSignal}} options `to` in ms since the epoch; without it the newest
 * @returns {Promise<{bars: Bar[], isEnd: boolean}>} oldest first; `isEnd` when the gateway said that it has no others
 * @throws when they did not come: that says nothing of what there is
 */
export async function loadHistory(symbol, resolution, { count, to, signal }) {
  // Far beyond every bar, and still a whole number of seconds for the server.
  const before = to === undefined ? 2 ** 33 : to / 1000;
  const query = new URLSearchParams({ symbol, resolution, from: "0", to: String(before), countback: String(count) });
  const { s, nextTime, t = [], o, h, l, c, v } = await askJson(`udf/history?${query}`, { signal });
  const bars = t.map((time, i) => ({ time: time * 1000, open: o[i], high: h[i], low: l[i], close: c[i], volume: v[i] }));
  // An error is a symbol that is not known yet.
  return { bars, isEnd: s === "no_data" && nextTime === undefined };
}
