import assert from "node:assert/strict";
import { test } from "node:test";
import { Counts } from "../ops/counts.js";
import { byLabel, parse, value } from "../ops/openmetrics.js";
import { increase, observations, percentile, rate, rates } from "../ops/rates.js";
import { KEPT_MS, Recorder, workers } from "../ops/recorder.js";
import { tiles } from "../ops/tiles.js";
import { Topics, arrange } from "../ops/topics.js";
import * as units from "../ops/units.js";

/** A look whose text has these lines. */
const look = (at, ...lines) => ({ at, figures: parse([...lines, "# EOF", ""].join("\n")) });

test("OpenMetrics text becomes figures, with labels, escapes and odd numbers", () => {
  const { figures } = look(0,
    "# HELP a_bars Bars.", "# TYPE a_bars counter", "a_bars_total 12",
    'b{reason="say \\"no\\", \\\\ and \\n",code="1001"} 1.5e3', "c +Inf", "d{} 0 1697097600.5", 'le_bucket{le="+Inf"} 3 # {trace="x"} 1');
  assert.equal(value(figures, "a_bars_total"), 12);
  assert.equal(value(figures, "b", { code: "1001" }), 1_500);
  assert.equal(value(figures, "b", { code: "1002" }), null);
  assert.deepEqual([...byLabel(figures, "b", "reason").keys()], ['say "no", \\ and \n']);
  assert.equal(value(figures, "c"), Infinity);
  assert.equal(value(figures, "d"), 0);
  assert.equal(value(figures, "le_bucket", { le: "+Inf" }), 3);
  assert.equal(value(figures, "absent"), null);
});

test("text that is cut off or is none is refused, not half read", () => {
  for (const text of ["", "a_total 12", "a_total 1\n# EO"]) assert.throws(() => parse(text), /EOF/);
  for (const line of ["a_total", "a_total x", 'a{b="1} 2', "<html>", "a{b=1} 2", 'a{b="1"}2', "a_total  "]) {
    assert.throws(() => parse(`${line}\n# EOF\n`), /not a sample/, line);
  }
});

test("rates survive a restart of the gateway", () => {
  assert.equal(increase(10, 25), 15);
  assert.equal(increase(10, 4), 4);
  assert.equal(increase(null, 4), null);
  const [a, b, c] = [look(0, "a_total 100"), look(2_000, "a_total 150"), look(4_000, "a_total 30")];
  assert.equal(rate(a, b, "a_total"), 25);
  assert.equal(rate(b, c, "a_total"), 15);
  assert.equal(rate(a, a, "a_total"), null);
  assert.equal(rate(a, b, "b_total"), null);
  const [before, after] = [look(0, 'e_total{code="1"} 4'), look(1_000, 'e_total{code="1"} 6', 'e_total{code="2"} 3')];
  assert.deepEqual([...rates(before, after, "e_total", "code")], [["1", 2], ["2", 3]]);
});

const lag = (counts) => {
  let sum = 0;
  return [...["0.001", "0.01", "0.1", "+Inf"].map((le, nth) => `lag_bucket{le="${le}"} ${(sum += counts[nth])}`)];
};

test("percentiles are of what was observed between two looks", () => {
  const [before, now] = [look(0, ...lag([50, 0, 0, 0])), look(1_000, ...lag([50, 80, 20, 0]))];
  const seen = observations(before, now, "lag");
  assert.deepEqual(seen.map(({ count }) => count), [0, 80, 20, 0]);
  assert.ok(Math.abs(percentile(seen, 0.5) - 0.006625) < 1e-12);
  assert.ok(Math.abs(percentile(seen, 0.8) - 0.01) < 1e-12);
  assert.ok(Math.abs(percentile(seen, 0.9) - 0.055) < 1e-12);
  assert.equal(percentile(observations(now, now, "lag"), 0.5), null);
  // Nothing is known of what lies above the last bound.
  assert.equal(percentile(observations(now, look(2_000, ...lag([50, 80, 20, 5])), "lag"), 0.99), Infinity);
  assert.deepEqual(observations(now, now, "absent"), []);
});

test("percentiles after a restart are of the new process alone", () => {
  const before = look(0, "process_start_time_seconds 1", ...lag([5, 0, 0, 0]));
  const fewer = look(1_000, "process_start_time_seconds 1", ...lag([0, 3, 0, 0]));
  assert.deepEqual(observations(before, fewer, "lag").map(({ count }) => count), [0, 3, 0, 0]);
  // More than before in every bucket, but another process.
  const more = look(1_000, "process_start_time_seconds 2", ...lag([5, 4, 0, 0]));
  assert.deepEqual(observations(before, more, "lag").map(({ count }) => count), [5, 4, 0, 0]);
});

const gateway = (at, received, busy) =>
  look(at, "barcast_clients 3", `barcast_received_bars_total ${received}`, 'barcast_worker_clients{worker="0"} 3', `barcast_worker_busy_seconds_total{worker="0"} ${busy}`);

test("the recorder keeps some minutes, and a hole where nothing came", () => {
  const recorder = new Recorder();
  recorder.take(gateway(0, 10, 1));
  assert.deepEqual([recorder.last("clients"), recorder.last("received")], [3, null]);
  recorder.take(gateway(2_000, 30, 2));
  assert.deepEqual([recorder.last("received"), recorder.last("busy 0")], [10, 0.5]);
  assert.deepEqual(workers(recorder), [{ worker: "0", clients: 3, busy: 0.5, waiting: null }]);
  recorder.miss(4_000);
  recorder.miss(6_000);
  assert.equal(recorder.points.length, 3, "one hole, however long");
  assert.deepEqual([recorder.last("clients"), recorder.latest], [null, null]);
  assert.deepEqual(workers(recorder), []);
  recorder.take(gateway(8_000, 900, 3));
  assert.equal(recorder.last("received"), null, "no rate over the hole");
  recorder.take(gateway(10_000, 902, 3));
  assert.equal(recorder.last("received"), 1);
  recorder.take(gateway(KEPT_MS + 9_000, 903, 3));
  assert.equal(recorder.points.length, 2);
});

test("counts tell what was seen, over a restart", () => {
  const counts = new Counts();
  const told = () => counts.happened.map(({ what, grown, total }) => [what, grown, total]);
  const figures = (slow, code) => look(0, `barcast_closed_clients_total{code="4503"} ${slow}`, `barcast_closed_clients_total{code="1001"} ${code}`).figures;
  counts.take(figures(7, 0));
  assert.deepEqual(told(), [["Closed with 4503: slow client", 0, 7]]);
  counts.take(figures(9, 0));
  counts.take(figures(1, 2));
  assert.deepEqual(told().sort(), [["Closed with 1001: going away", 2, 2], ["Closed with 4503: slow client", 3, 1]]);
});

const listed = (...rows) => ({ total: rows.length, topics: rows.map(([topic, subscribers, messages]) => ({ topic, subscribers, messages })) });

test("topics have rates, also new ones and after a restart", () => {
  const topics = new Topics();
  topics.take(listed(["bars:A:1", 2, 10], ["bars:B:1", 0, 5]), 0);
  assert.equal(topics.rows()[0].rate, null);
  topics.take(listed(["bars:A:1", 3, 30], ["bars:B:1", 0, 2], ["bars:C:1", 1, 4]), 2_000);
  assert.deepEqual(topics.rows().map(({ rate, due }) => [rate, due]), [[10, 30], [1, 0], [2, 2]]);
  const unlisted = topics.rows(new Map([["bars:A:1", 3], ["bars:Z:1", 9]])).at(-1);
  assert.deepEqual(unlisted, { topic: "bars:Z:1", subscribers: 9, messages: null, rate: null, due: null });
  topics.miss();
  assert.equal(topics.rows()[0].rate, null, "out of reach: nothing is known");
  topics.take(listed(["bars:A:1", 3, 900]), 60_000);
  assert.equal(topics.rows()[0].rate, null, "no rate over that time");
  topics.take(listed(["bars:A:1", 3, 902]), 61_000);
  assert.equal(topics.rows()[0].rate, 2);
});

test("topics are sorted, filtered and cut; what is not known comes last", () => {
  const rows = [["bars:B:1", 5], ["bars:A:5", 5], ["bars:C:1", null], ["bars:A:1", 9]].map(([topic, subscribers]) => ({ topic, subscribers }));
  const names = (wish) => arrange(rows, { by: "subscribers", descending: true, filter: "", most: 10, ...wish }).shown.map(({ topic }) => topic);
  assert.deepEqual(names({}), ["bars:A:1", "bars:A:5", "bars:B:1", "bars:C:1"]);
  assert.deepEqual(names({ descending: false }), ["bars:A:5", "bars:B:1", "bars:A:1", "bars:C:1"]);
  assert.deepEqual(names({ by: "topic", descending: true, most: 2 }), ["bars:C:1", "bars:B:1"]);
  assert.deepEqual(names({ filter: "A :1" }), ["bars:A:1"]);
  assert.equal(arrange(rows, { by: "topic", descending: false, filter: "", most: 1 }).matching, 4);
});

test("tiles say what is known, and nothing else", () => {
  const state = (...lines) => {
    const found = tiles(look(0, ...lines).figures, new Recorder());
    return found.slice(0, 3).map(({ text, level }) => [text, level]);
  };
  assert.deepEqual(tiles(null, new Recorder()).map(({ text }) => text), Array(10).fill(units.UNKNOWN));
  assert.deepEqual(state("barcast_ready 1", "barcast_draining 0", "barcast_bus_connected 1", "barcast_bus_reconnects_total 0", "barcast_clients 90", "barcast_max_clients 100"), [["Ready", "ok"], ["Connected", "ok"], ["90", "warn"]]);
  assert.deepEqual(state("barcast_ready 0", "barcast_draining 0", "barcast_bus_connected 0", "barcast_bus_reconnects_total 1"), [["Not ready", "bad"], ["Lost", "bad"], [units.UNKNOWN, ""]]);
  assert.deepEqual(state("barcast_ready 0", "barcast_draining 1", "barcast_bus_connected 1", "barcast_bus_reconnects_total 0")[0], ["Draining", "warn"]);
});

test("figures are written for people", () => {
  assert.deepEqual([0, 7, 12.34, 999.9, 1_234, 1_234_567, null].map(units.count), ["0", "7", "12.3", "1 k", "1.23 k", "1.23 M", "–"]);
  assert.deepEqual([0, 1_023, 1_024, 1.5 * 2 ** 20].map(units.bytes), ["0 B", "1,023 B".replace(",", ""), "1 KiB", "1.5 MiB"]);
  assert.deepEqual([0.000_25, 0.002_5, 1.5, Infinity, null].map(units.lag), ["250 µs", "2.5 ms", "1.5 s", "> 10 s", "–"]);
  assert.deepEqual([0.256, 1, null].map(units.percent), ["25.6 %", "100 %", "–"]);
  assert.deepEqual([1, 0.25].map(units.cores), ["1 core", "0.25 cores"]);
  assert.deepEqual([59, 61, 3_660, 86_400 * 3].map(units.duration), ["59 s", "1 min", "1 h 1 min", "3 d 0 h"]);
});

test("axes have few round lines that hold all", () => {
  for (const [highest, top] of [[0, 1], [1, 1], [9, 10], [803, 1_000], [0.04, 0.04], [1_001, 1_500], [30, 30], [0.0189, 0.02]]) {
    const lines = units.ticks(highest);
    assert.equal(lines[0], 0);
    assert.ok(lines.length <= 6 && lines.at(-1) >= highest, `${highest}: ${lines}`);
    if (highest !== 1_001) assert.equal(lines.at(-1), top, `${highest}: ${lines}`);
  }
  assert.ok(units.ticks(28.1 * 2 ** 20, 4, 1_024).every((line) => line % 2 ** 20 === 0));
  assert.deepEqual(units.timeTicks(300_000).map(units.ago), ["now", "−1 min", "−2 min", "−3 min", "−4 min", "−5 min"]);
  assert.equal(units.ago(30_000), "−30 s");
});
