import assert from "node:assert/strict";
import { test } from "node:test";
import { lastClose } from "../bars.js";
import * as format from "../format.js";
import { symbolsOf } from "../watchlist.js";

const bar = (open, close = open) => ({ time: 0, open, high: Math.max(open, close), low: Math.min(open, close), close, volume: 0 });

test("every resolution has a length and a label", () => {
  const all = "1S 5S 15S 30S 1 3 5 15 30 45 60 120 240 D W M".split(" ");
  assert.deepEqual(all.map((r) => format.labelOf(r).short), "1s 5s 15s 30s 1m 3m 5m 15m 30m 45m 1h 2h 4h 1D 1W 1M".split(" "));
  assert.deepEqual(format.labelOf("1").long, "1 minute");
  assert.deepEqual(format.labelOf("120").long, "2 hours");
  const lengths = all.map(format.lengthOf);
  assert.deepEqual(lengths, [...lengths].sort((a, b) => a - b));
  assert.equal(format.lengthOf("45"), 2_700_000);
});

test("decimals are those the market uses, without the noise of doubles", () => {
  assert.equal(format.decimalsOf([]), 2);
  assert.equal(format.decimalsOf([bar(150)]), 2);
  assert.equal(format.decimalsOf([bar(1.08345, 1.0835)]), 5);
  assert.equal(format.decimalsOf([bar(0.1 + 0.2)]), 2);
  assert.equal(format.decimalsOf([bar(0.000001)]), 6);
  assert.equal(format.decimalsOf([bar(1 / 3)]), 8);
  assert.equal(format.decimalsOf([bar(1.234), bar(null)]), 3);
});

test("figures are written for people", () => {
  assert.equal(format.price(1234.5, 2), "1,234.50");
  assert.equal(format.price(null, 2), "–");
  assert.equal(format.volume(1_234_567), "1.23M");
  assert.deepEqual(format.change(100, 101.234), { direction: "up", percent: "+1.23%" });
  assert.deepEqual(format.change(100, 99), { direction: "down", percent: "−1.00%" });
  assert.deepEqual(format.change(100, 100.001), { direction: "flat", percent: "0.00%" });
  assert.deepEqual(format.change(0, 5), { direction: "flat", percent: "0.00%" });
  assert.equal(format.countdown(7_200), "0:08");
  assert.equal(format.countdown(3_600_000 * 5 + 61_000), "5:01:01");
  assert.deepEqual([34_900, 300_000, 7_200_000, 3 * 86_400_000].map(format.age), ["34 s", "5 min", "2 h", "3 d"]);
  assert.deepEqual([0.4, 12.4, 61_000].map(format.milliseconds), ["< 1 ms", "12 ms", "1 min"]);
});

test("an interval without trades counts for nothing", () => {
  const empty = { time: 0, open: null, high: null, low: null, close: null, volume: 0 };
  assert.equal(format.decimalsOf([empty, bar(1.083), empty]), 3);
  assert.equal(lastClose([bar(1, 7), empty]), 7);
  assert.equal(lastClose([empty]), null);
});

test("a bar's time is as fine as its resolution", () => {
  const time = Date.UTC(2023, 9, 12, 8, 5, 30);
  assert.equal(format.barTime(time, "D"), "2023-10-12");
  assert.equal(format.barTime(time, "5"), "2023-10-12 08:05");
  assert.equal(format.barTime(time, "30S"), "2023-10-12 08:05:30");
});

test("stale follows the topic's own rhythm", () => {
  assert.equal(format.staleAfter(null), 30_000);
  assert.equal(format.staleAfter(100), 10_000);
  assert.equal(format.staleAfter(60_000), 300_000);
});

test("what is old is said in words, and what is not is not", () => {
  const fresh = { silence: 1_000, interval: 500, overdue: -500 };
  assert.equal(format.staleness(fresh), "");
  assert.equal(format.staleness({ ...fresh, overdue: null }), "");
  assert.equal(format.staleness({ ...fresh, silence: 20_000 }), "No update for 20 s");
  assert.equal(format.staleness({ ...fresh, silence: 35_000, interval: null }), "No update for 35 s");
  assert.equal(format.staleness({ ...fresh, overdue: 600_000 }), "Last bar ended 10 min ago");
});

test("a resume is told in words", () => {
  assert.deepEqual([0, 1, 1400].map(format.filled), ["Resumed: nothing was missed", "Resumed: 1 bar filled", "Resumed: 1,400 bars filled"]);
});

test("topics become symbols with their resolutions, price and the open of their day", () => {
  const topics = [
    { topic: "bars:MSFT:5", last: bar(10, 11) },
    { topic: "bars:AAPL:D", last: bar(100, 103) },
    { topic: "bars:AAPL:1", last: bar(104, 105) },
    { topic: "bars:AAPL:W", last: bar(90, 103) },
    { topic: "bars:OLD:M", last: null },
    { topic: "nonsense", last: null },
  ];
  const [aapl, msft, old] = symbolsOf(topics);
  assert.deepEqual(aapl.resolutions, ["1", "D", "W"]);
  assert.deepEqual([aapl.symbol, aapl.reference, aapl.price, aapl.base], ["AAPL", "D", 105, 100]);
  assert.deepEqual([msft.symbol, msft.reference, msft.price, msft.base], ["MSFT", "5", 11, 10]);
  assert.deepEqual([old.symbol, old.reference, old.price, old.base], ["OLD", "M", null, null]);
});
