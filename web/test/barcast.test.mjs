import assert from "node:assert/strict";
import { test } from "node:test";
import { Track, backoff, combine, covers, mergeBars, payloads, putBar, request } from "../barcast.js";

const bar = (time, close = 1) => ({ time, open: 1, high: 2, low: 0.5, close, volume: 10 });
const times = (bars) => bars.map((b) => b.time);

test("backoff doubles up to the maximum, and at least half of it is certain", () => {
  const lowest = (attempt) => backoff(attempt, { base: 100, max: 1000, random: () => 0 });
  const highest = (attempt) => backoff(attempt, { base: 100, max: 1000, random: () => 1 });
  assert.deepEqual([0, 1, 2, 3, 4, 5].map(lowest), [50, 100, 200, 400, 500, 500]);
  assert.deepEqual([0, 1, 2, 3, 4, 5].map(highest), [100, 200, 400, 800, 1000, 1000]);
  assert.equal(highest(5000), 1000);
});

test("merging sorts by time, keeps each time once and prefers the newer list", () => {
  const older = [bar(1), bar(2), bar(4)];
  const merged = mergeBars(older, [bar(4, 9), bar(3), bar(5), bar(3, 7)]);
  assert.deepEqual(times(merged), [1, 2, 3, 4, 5]);
  assert.equal(merged[2].close, 7);
  assert.equal(merged[3].close, 9);
  assert.deepEqual(times(older), [1, 2, 4]);
});

test("a bar is appended, replaces the last, revises or is inserted", () => {
  const bars = [];
  assert.equal(putBar(bars, bar(10)), "appended");
  assert.equal(putBar(bars, bar(30)), "appended");
  assert.equal(putBar(bars, bar(30, 5)), "replaced");
  assert.equal(putBar(bars, bar(10, 6)), "revised");
  assert.equal(putBar(bars, bar(20, 7)), "inserted");
  assert.equal(putBar(bars, bar(5, 8)), "inserted");
  assert.deepEqual(bars.map((b) => [b.time, b.close]), [[5, 8], [10, 6], [20, 7], [30, 5]]);
});

test("a pattern covers whole parts only", () => {
  assert.ok(covers("bars:AAPL:1", "bars:AAPL:1"));
  assert.ok(covers("bars:*:1", "bars:AAPL:1"));
  assert.ok(covers("bars:AAPL:*", "bars:AAPL:D"));
  assert.ok(!covers("bars:*:1", "bars:AAPL:15"));
  assert.ok(!covers("bars:AAP*:1", "bars:AAPL:1"));
  assert.ok(!covers("bars:AAPL:1", "bars:AAPL:5"));
});

test("an older time is a revision and does not move the track back", () => {
  const track = new Track();
  assert.equal(track.update(bar(20)).kind, "bar");
  assert.equal(track.update(bar(20, 3)).kind, "bar");
  assert.equal(track.update(bar(10)).kind, "revision");
  assert.equal(track.last, 20);
  track.snapshot([bar(5), bar(15)]);
  assert.equal(track.last, 20);
  assert.equal(track.bar.close, 3);
  track.snapshot([bar(20, 4)]);
  assert.equal(track.bar.close, 4);
  assert.equal(track.update(bar(15)).kind, "revision");
});

test("a resume that starts at the last bar leaves no gap", () => {
  const track = new Track();
  track.snapshot([bar(10), bar(20)]);
  track.lost();
  assert.deepEqual(track.snapshot([bar(20), bar(30), bar(40)]), { gap: null });
  assert.equal(track.last, 40);
  assert.deepEqual(track.update(bar(60)), { kind: "bar", gap: null });
});

test("revised bars before the last one hide no gap", () => {
  const resume = (bars) => {
    const track = new Track();
    track.snapshot([bar(10), bar(20), bar(30)]);
    track.lost();
    return track.snapshot(bars).gap;
  };
  assert.equal(resume([bar(10, 7), bar(30), bar(40)]), null);
  assert.equal(resume([bar(10, 7)]), null);
  assert.deepEqual(resume([bar(10, 7), bar(50)]), { from: 30, to: 50 });
});

test("a resume that starts later tells of the gap, once", () => {
  for (const resumed of [(t) => t.snapshot([bar(50), bar(60)]), (t) => t.update(bar(50))]) {
    const track = new Track();
    track.update(bar(20));
    track.lost();
    assert.deepEqual(track.snapshot([]), { gap: null });
    assert.deepEqual(resumed(track).gap, { from: 20, to: 50 });
    assert.equal(track.update(bar(90)).gap, null);
  }
});

test("a gap that the server told of is not told again", () => {
  const track = new Track();
  track.update(bar(20));
  track.lost();
  track.gap();
  assert.equal(track.update(bar(50)).gap, null);
});

test("a topic that had no bar yet has nothing to resume", () => {
  const track = new Track();
  track.lost();
  assert.equal(track.update(bar(50)).gap, null);
});

test("a request asks for history first and for what followed the last bar later", () => {
  const track = new Track();
  const options = { snapshot: 500, maxRate: 2 };
  assert.deepEqual(request(options, track), { snapshot: 500, max_rate: 2 });
  track.update(bar(20));
  assert.deepEqual(request(options, track), { since: 20, max_rate: 2 });
  assert.deepEqual(request({ since: 7 }, undefined), { since: 7 });
  assert.deepEqual(request({}, undefined), {});
  track.last = 0;
  assert.deepEqual(request({}, track), { since: 0 });
});

test("subscriptions of one topic ask for the most that any of them needs", () => {
  assert.deepEqual(combine([{ snapshot: 10, maxRate: 1 }, { snapshot: 500, maxRate: 4 }]), { snapshot: 500, maxRate: 4 });
  assert.deepEqual(combine([{ maxRate: 1 }, {}]), {});
  assert.deepEqual(combine([{ since: 9 }, { since: 4 }]), { since: 4 });
  assert.deepEqual(combine([]), {});
});

test("requests with the same parameters share messages below the server's limit", () => {
  const same = Array.from({ length: 400 }, (_, i) => ({ topic: `bars:SYMBOL-${i}:1`, params: { max_rate: 1 } }));
  const out = payloads([...same, { topic: "bars:A:D", params: { since: 5 } }, { topic: "bars:B:D", params: { since: 5 } }]);
  assert.deepEqual(out.flatMap((p) => p.topics).sort(), [...same.map((r) => r.topic), "bars:A:D", "bars:B:D"].sort());
  for (const payload of out) {
    assert.ok(JSON.stringify({ type: "bars.unsubscribe", id: 2 ** 40, payload }).length <= 4096);
  }
  assert.deepEqual(out.at(-1), { topics: ["bars:A:D", "bars:B:D"], since: 5 });
  assert.ok(out.length < 6);
});
