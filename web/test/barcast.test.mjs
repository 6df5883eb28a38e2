import assert from "node:assert/strict";
import { test } from "node:test";
import { Track, backoff, barsIn, connect, cost, covers, mergeBars, parseTopic, together } from "../barcast.js";

const bar = (time, close = 1) => ({ time, open: 1, high: 2, low: 0.5, close, volume: 10 });
const times = (bars) => bars.map((b) => b.time);

test("a topic is parsed, anything else is not", () => {
  assert.deepEqual(parseTopic("bars:BTC-USD:1"), { symbol: "BTC-USD", resolution: "1" });
  assert.deepEqual(parseTopic("bars:EUR/USD:5S"), { symbol: "EUR/USD", resolution: "5S" });
  assert.deepEqual(parseTopic("bars:*:D"), { symbol: "*", resolution: "D" });
  const wrong = ["bars:AAPL", "bars::1", "trades:AAPL:1", "bars:A:1:2", "bars:A B:1", "bars:<b>:1", `bars:${"A".repeat(33)}:1`, "bars:A:"];
  for (const text of wrong) assert.equal(parseTopic(text), null, text);
});

test("a pattern covers whole parts only", () => {
  assert.ok(covers("bars:AAPL:1", "bars:AAPL:1"));
  assert.ok(covers("bars:*:1", "bars:AAPL:1"));
  assert.ok(covers("bars:AAPL:*", "bars:AAPL:D"));
  assert.ok(!covers("bars:*:1", "bars:AAPL:15"));
  assert.ok(!covers("bars:AAPL:1", "bars:AAPL:5"));
});

test("backoff is anything up to a bound that doubles up to the maximum", () => {
  const lowest = (attempt) => backoff(attempt, { base: 100, max: 1000, random: () => 0 });
  const highest = (attempt) => backoff(attempt, { base: 100, max: 1000, random: () => 1 });
  assert.deepEqual([0, 1, 2, 3, 4, 5].map(lowest), [0, 0, 0, 0, 0, 0]);
  assert.deepEqual([0, 1, 2, 3, 4, 5].map(highest), [100, 200, 400, 800, 1000, 1000]);
  assert.equal(highest(5000), 1000);
});

test("a close code says how long to wait at first", () => {
  const span = (code) => [0, 1].map((random) => backoff(0, { random: () => random, code }));
  for (const code of [undefined, 1000, 1006, 1009, 1011, 4408]) assert.deepEqual(span(code), [0, 500], String(code));
  // They come to many clients at once, whose return is spread as a drain's closes are.
  for (const code of [1001, 1012, 1013]) assert.deepEqual(span(code), [0, 5_000], String(code));
  // Haste would only bring the same.
  for (const code of [1002, 1003, 1007, 1008, 4429, 4503]) assert.deepEqual(span(code), [7_500, 15_000], String(code));
  assert.equal(backoff(0, { max: 10, random: () => 1, code: 1001 }), 10);
});

test("merging sorts by time, keeps each time once and prefers the newer list", () => {
  const older = [bar(1), bar(2), bar(4)];
  const merged = mergeBars(older, [bar(4, 9), bar(3), bar(5), bar(3, 7)]);
  assert.deepEqual(times(merged), [1, 2, 3, 4, 5]);
  assert.equal(merged[2].close, 7);
  assert.equal(merged[3].close, 9);
  assert.deepEqual(times(older), [1, 2, 4]);
});

test("an older time is a revision and does not move the track back", () => {
  const track = new Track();
  assert.equal(track.update(bar(20)).kind, "bar");
  assert.equal(track.update(bar(20, 3)).kind, "bar");
  assert.equal(track.update(bar(10)).kind, "revision");
  assert.equal(track.bar.close, 3);
  track.snapshot([bar(5), bar(15)]);
  assert.equal(track.bar.time, 20);
  track.snapshot([bar(20, 4)]);
  assert.equal(track.bar.close, 4);
});

test("a resume that starts at the last bar leaves no gap, whatever older bars come with it", () => {
  for (const older of [[], [bar(5, 9)], [bar(5, 9), bar(10, 8)]]) {
    const track = new Track();
    track.snapshot([bar(10), bar(20)]);
    track.lost();
    assert.equal(track.missing, 20);
    track.asked = true;
    assert.deepEqual(track.snapshot([...older, bar(20), bar(30), bar(40)]), { why: "resume", gap: null });
    assert.equal(track.missing, null);
    assert.deepEqual(track.update(bar(60)), { kind: "bar", gap: null });
  }
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
  for (const resumed of [(t) => t.snapshot([bar(50), bar(60)]), (t) => t.snapshot([bar(5), bar(50)]), (t) => t.update(bar(50))]) {
    const track = new Track();
    track.update(bar(20));
    track.lost();
    assert.deepEqual(track.snapshot([]).gap, null);
    assert.deepEqual(resumed(track).gap, { from: 20, to: 50 });
    assert.equal(track.update(bar(90)).gap, null);
  }
});

test("a gap that the server told of is asked for, but not while its answer is under way", () => {
  const track = new Track();
  track.update(bar(20));
  assert.equal(track.gap(10), true);
  assert.equal(track.missing, 10);
  track.asked = true;
  assert.equal(track.gap(0), false);
  assert.equal(track.snapshot([bar(15), bar(20)]).why, "repair");
  track.lost();
  track.gap(20);
  assert.equal(track.update(bar(50)).gap, null);
});

test("a topic that had no bar yet has nothing to resume", () => {
  const track = new Track();
  track.lost();
  assert.equal(track.missing, null);
  assert.equal(track.update(bar(50)).gap, null);
});

/** All asks, as the requests that they go out in. */
function requests(asks) {
  const left = [...asks];
  const out = [];
  while (left.length > 0) {
    const group = together(left);
    for (const ask of group) left.splice(left.indexOf(ask), 1);
    out.push(group);
  }
  return out;
}
const named = (groups) => groups.map((group) => group.map(({ topic }) => topic));

test("requests with the same parameters share messages below the server's limit", () => {
  const same = Array.from({ length: 400 }, (_, i) => ({ kind: "plain", topic: `bars:SYMBOL-${i}:1`, params: { max_rate: 1 } }));
  const since = ["bars:A:D", "bars:B:D"].map((topic) => ({ kind: "since", topic, params: { since: 5 }, bars: 1 }));
  const out = requests([...same, ...since]);
  assert.deepEqual(named(out).flat().sort(), [...same, ...since].map((ask) => ask.topic).sort());
  for (const group of out) {
    const payload = { topics: group.map((ask) => ask.topic), ...group[0].params };
    assert.ok(JSON.stringify({ type: "bars.unsubscribe", id: 2 ** 40, payload }).length <= 4096);
  }
  assert.deepEqual(named(out).at(-1), ["bars:A:D", "bars:B:D"]);
  assert.ok(out.length < 6);
});

test("a request asks for no more bars than the server sends, and for fewer topics after a refusal", () => {
  const topics = Array.from({ length: 1_000 }, (_, n) => `bars:W${n}:1`);
  for (const bars of [1, 43, 50, 10_000]) {
    const out = requests(topics.map((topic) => ({ kind: "wish", topic, params: { snapshot: bars }, bars })));
    assert.deepEqual(named(out).flat(), topics);
    for (const group of out) {
      assert.ok(group.length * bars <= 10_000 || group.length === 1);
      assert.ok(cost(group) >= 1 + (group.length * bars) / 256);
    }
  }
  const asks = topics.slice(0, 10).map((topic) => ({ kind: "plain", topic, params: {}, most: 3, suspect: true }));
  assert.deepEqual(requests(asks).map((group) => group.length), [3, 3, 3, 1]);
  // What is doubtful spoils nothing, and a pattern's answer has an end of its own.
  const mixed = [{ kind: "plain", topic: "bars:A:1", params: {}, suspect: true }, { kind: "plain", topic: "bars:B:1", params: {} }];
  assert.equal(requests(mixed).length, 2);
  const patterns = ["bars:A:*", "bars:B:*"].map((topic) => ({ kind: "wish", topic, params: { snapshot: 1 } }));
  assert.equal(requests(patterns).length, 2);
});

test("how many bars a span has", () => {
  const minute = 60_000;
  assert.deepEqual(["bars:A:1", "bars:A:5", "bars:A:1S", "bars:A:D"].map((topic) => barsIn(topic, 10 * minute)), [11, 3, 601, 2]);
  assert.equal(barsIn("bars:A:1S", 2 * 86_400_000), 10_000);
});

/** A socket in the client's hands and a server's voice in the test's. */
function wire() {
  const sockets = [];
  class Socket {
    sent = [];
    constructor() {
      sockets.push(this);
    }
    send(text) {
      const message = JSON.parse(text);
      if (message.type === "ping") this.onmessage({ data: '{"type":"pong"}' });
      else this.sent.push(message);
    }
    close() {
      this.isClosed = true;
    }
    say(message) {
      this.onmessage({ data: JSON.stringify(message) });
    }
    snapshot(topic, bars) {
      this.say({ type: "bars.snapshot", topic, payload: { bars } });
    }
  }
  return { sockets, Socket };
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function until(look) {
  for (const deadline = Date.now() + 10_000; Date.now() < deadline; await pause(2)) if (look()) return;
  assert.fail(`never: ${look}`);
}

/** A client that is connected to nothing but this test, and what it heard. */
async function connected(t, subscribe) {
  const { sockets, Socket } = wire();
  const client = connect("ws://test", { WebSocket: Socket, backoffBase: 1, backoffMax: 1 });
  t.after(() => client.close());
  const heard = [];
  const handlers = Object.fromEntries(
    ["bar", "revision", "snapshot", "gap", "error"].map((event) => [event, (value, meta) => heard.push([event, value, meta])]),
  );
  const subscriptions = subscribe(client, handlers);
  await until(() => sockets.length === 1);
  sockets[0].onopen();
  return { client, sockets, heard, handlers, subscriptions };
}

test("a lost connection is resumed from the last bar of each topic", async (t) => {
  const { sockets, heard } = await connected(t, (client, handlers) => {
    client.subscribe("bars:A:1", { snapshot: 5 }, handlers);
    client.subscribe("bars:B:*", {}, handlers);
  });
  assert.deepEqual(sockets[0].sent.map((m) => m.payload), [{ topics: ["bars:A:1"], snapshot: 5 }, { topics: ["bars:B:*"] }]);
  sockets[0].snapshot("bars:A:1", [bar(10), bar(20)]);
  sockets[0].say({ type: "bars.update", topic: "bars:B:D", ts: 7, payload: bar(100) });
  assert.deepEqual(heard.at(-1), ["bar", bar(100), { topic: "bars:B:D", ts: 7 }]);

  sockets[0].onclose({ code: 1006, reason: "" });
  await until(() => sockets.length === 2);
  sockets[1].onopen();
  assert.deepEqual(sockets[1].sent.map((m) => m.payload), [
    { topics: ["bars:A:1"], since: 20 }, { topics: ["bars:B:D"], since: 100 }, { topics: ["bars:B:*"] },
  ]);
  sockets[1].snapshot("bars:A:1", [bar(10, 3), bar(20), bar(30)]);
  assert.deepEqual(heard.at(-1), ["snapshot", [bar(10, 3), bar(20), bar(30)], { topic: "bars:A:1", why: "resume" }]);
  assert.ok(!heard.some(([event]) => event === "gap"));
});

test("a gap is told, asked for once, and its answer said to be a repair", async (t) => {
  const { sockets, heard } = await connected(t, (client, handlers) => client.subscribe("bars:A:1", {}, handlers));
  const [socket] = sockets;
  socket.say({ type: "bars.update", topic: "bars:A:1", payload: bar(50) });
  socket.say({ type: "bars.gap", topic: "bars:A:1", payload: { from: 20, to: 40, reason: "upstream" } });
  await until(() => socket.sent.length === 2);
  assert.deepEqual(socket.sent[1].payload, { topics: ["bars:A:1"], since: 20 });
  socket.say({ type: "bars.gap", topic: "bars:A:1", payload: { from: 20, to: 30, reason: "upstream" } });
  socket.snapshot("bars:A:1", [bar(40), bar(50)]);
  assert.deepEqual(heard.slice(1).map(([event, value, meta]) => [event, value.reason ?? meta.why]), [["gap", "upstream"], ["gap", "upstream"], ["snapshot", "repair"]]);
  await pause(150);
  assert.equal(socket.sent.length, 2);
});

test("subscriptions of one topic share it; the last one to go ends it", async (t) => {
  const { client, sockets, heard, handlers, subscriptions } = await connected(t, (client, handlers) => [client.subscribe("bars:A:1", { maxRate: 2 }, handlers)]);
  const [socket] = sockets;
  socket.say({ type: "bars.update", topic: "bars:A:1", payload: bar(50) });
  subscriptions.push(client.subscribe("bars:A:1", {}, handlers));
  await until(() => socket.sent.length === 2);
  assert.deepEqual(socket.sent.map((m) => m.payload), [{ topics: ["bars:A:1"], max_rate: 2 }, { topics: ["bars:A:1"] }]);
  assert.equal(heard.length, 2, "the second one gets the current bar, too");
  subscriptions[1].unsubscribe();
  await until(() => socket.sent.length === 3);
  assert.equal(socket.sent[2].payload.max_rate, 2);
  subscriptions[0].unsubscribe();
  await until(() => socket.sent.length === 4);
  assert.equal(socket.sent[3].type, "bars.unsubscribe");
  socket.say({ type: "bars.update", topic: "bars:A:1", payload: bar(60) });
  assert.equal(heard.length, 2);
});

test("an error comes to those whose topic is refused; what is no topic is refused at once", async (t) => {
  const { client, sockets, heard } = await connected(t, (client, handlers) => {
    client.subscribe("bars:A:1", {}, handlers);
    client.subscribe("bars:A:5", {}, {});
  });
  const { sent } = sockets[0];
  const refuse = (code) => sockets[0].say({ type: "error", id: sent.at(-1).id, payload: { code, message: "no" } });
  // Either of them, or both: they are asked for alone.
  refuse("bad_request");
  await until(() => sent.length === 2);
  refuse("bad_request");
  assert.deepEqual(heard, [["error", { code: "bad_request", message: "no", topics: ["bars:A:1"] }, undefined]]);
  await until(() => sent.length === 3);
  assert.deepEqual(sent[2].payload, { topics: ["bars:A:5"] });
  sockets[0].say({ type: "bars.subscribe.response", id: sent[2].id, payload: { status: "ok" } });
  // What cannot be had is not asked for again, also on the next connection.
  sockets[0].onclose({ code: 1006, reason: "" });
  await until(() => sockets.length === 2);
  sockets[1].onopen();
  assert.deepEqual(sockets[1].sent.map((m) => m.payload), [{ topics: ["bars:A:5"] }]);
  assert.equal(heard.length, 1);
  assert.throws(() => client.subscribe("AAPL"), TypeError);
});

test("a connection that answers no ping is given up", async (t) => {
  const { sockets, Socket } = wire();
  Socket.prototype.send = () => {};
  const states = [];
  const client = connect("ws://test", { WebSocket: Socket, pongWithin: 20, backoffBase: 1, backoffMax: 1, state: (s) => states.push(s) });
  t.after(() => client.close());
  await until(() => sockets.length === 1);
  sockets[0].onopen();
  await until(() => sockets.length === 2);
  assert.ok(sockets[0].isClosed);
  assert.deepEqual(states.map((s) => s.name), ["connecting", "open", "waiting", "connecting"]);
  assert.equal(states[2].reason, "no pong");
});

test("a process that slept hears what came meanwhile before it judges", async (t) => {
  const { sockets, Socket } = wire();
  Socket.prototype.send = () => {};
  const states = [];
  const client = connect("ws://test", { WebSocket: Socket, pongWithin: 300, pingEvery: 200, backoffBase: 1, backoffMax: 1, state: (s) => states.push(s.name) });
  t.after(() => client.close());
  await until(() => sockets.length === 1);
  sockets[0].onopen();
  // The pong waits to be read while nothing runs here.
  for (const end = performance.now() + 2_500; performance.now() < end; );
  await pause(20);
  sockets[0].say({ type: "pong" });
  await pause(100);
  assert.deepEqual(states, ["connecting", "open"]);
  // Who says nothing then is gone.
  await until(() => sockets.length === 2);
});

test("a handler that throws stops nothing", async (t) => {
  const { sockets, Socket } = wire();
  const thrown = [];
  const listeners = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException");
  process.on("uncaughtException", (why) => thrown.push(why.message));
  t.after(() => {
    process.removeAllListeners("uncaughtException");
    for (const listener of listeners) process.on("uncaughtException", listener);
  });
  const client = connect("ws://test", {
    WebSocket: Socket, backoffBase: 1, backoffMax: 1,
    state: ({ name }) => {
      if (name !== "closed") throw new Error(name);
    },
  });
  t.after(() => client.close());
  await until(() => sockets.length === 1);
  sockets[0].onopen();
  sockets[0].onclose({ code: 1006, reason: "" });
  await until(() => sockets.length === 2);
  assert.deepEqual(thrown.slice(0, 4), ["connecting", "open", "waiting", "connecting"]);
});

const timers = () => process.getActiveResourcesInfo().filter((kind) => kind === "Timeout").length;

test("a thousand gaps of a topic are one repair, and none is left behind by an end", async () => {
  const { sockets, Socket } = wire();
  const before = timers();
  const client = connect("ws://test", { WebSocket: Socket });
  client.subscribe("bars:A:1", {}, {});
  await until(() => sockets.length === 1);
  sockets[0].onopen();
  sockets[0].say({ type: "bars.update", topic: "bars:A:1", payload: bar(60_000_000) });
  for (let n = 0; n < 1_000; n++) sockets[0].say({ type: "bars.gap", topic: "bars:A:1", payload: { from: 60_000_000 - n * 60_000, to: 60_000_000, reason: "upstream" } });
  assert.ok(timers() - before < 10, String(timers() - before));
  client.close();
  assert.ok(timers() - before < 3, String(timers() - before));
});

test("whoever closed the client hears nothing more, nor does anybody else", async () => {
  const { sockets, Socket } = wire();
  const heard = [];
  const client = connect("ws://test", { WebSocket: Socket });
  client.subscribe("bars:A:1", {}, { bar: () => (heard.push("first"), client.close()) });
  client.subscribe("bars:A:1", {}, { bar: () => heard.push("second") });
  await until(() => sockets.length === 1);
  sockets[0].onopen();
  sockets[0].say({ type: "bars.update", topic: "bars:A:1", payload: bar(60_000) });
  assert.deepEqual(heard, ["first"]);
});
