/**
 * A small client for barcast's WebSocket protocol. One file, no dependencies: copy it.
 *
 *     import { connect } from "./barcast.js";
 *     const client = connect("ws://127.0.0.1:8000/api/v1/ws");
 *     client.subscribe("bars:AAPL:1", { snapshot: 100 }, {
 *       snapshot: (bars) => console.log(bars.length, "bars of history"),
 *       bar: (bar) => console.log(bar.time, bar.close),
 *     });
 *
 * What it promises:
 * - it stays connected: a lost connection is retried with backoff and jitter, a half-open one is noticed by ping;
 * - it resumes: after a reconnect each topic asks for every bar since the last one it saw, and what the
 *   server cannot give any more is reported as a gap;
 * - `bar` never steps back in time: an update older than the newest bar of its topic goes to `revision`.
 *
 * @module barcast
 */

/**
 * @typedef {object} Bar
 * @property {number} time    start of the interval, ms since the epoch, UTC
 * @property {number} open
 * @property {number} high
 * @property {number} low
 * @property {number} close
 * @property {number} volume
 * @property {boolean} [closed]  true when the producer said that this is the bar's final state
 */

/**
 * @typedef {object} Meta      what came beside a bar
 * @property {string} topic    the topic itself, also when the subscription was a pattern
 * @property {number} [seq]    number of the message on its topic, +1 each
 * @property {number|string} [epoch]  the publisher's run
 * @property {number} [ts]     publish time, µs since the epoch
 * @property {number} [rev]    the producer's revision number
 */

/**
 * @typedef {object} Gap       closed bars that may be missing between two times
 * @property {string} topic
 * @property {number|null} from  ms since the epoch
 * @property {number|null} to    ms since the epoch
 * @property {string} reason   `slow_client` or `upstream` when the server said so, `reconnect` when this client found it
 */

/**
 * @typedef {object} State
 * @property {"connecting"|"open"|"waiting"|"closed"} name
 * @property {number} [seconds]  waiting: how long until the next attempt
 * @property {number} [retryAt]  waiting: when that is, ms since the epoch
 * @property {number} [attempt]  waiting, connecting: failed attempts so far
 * @property {number} [code]     waiting, closed: the close code of the connection before
 * @property {string} [reason]   waiting, closed: its reason
 */

/**
 * @typedef {object} Failure   an `error` message of the server
 * @property {string} code
 * @property {string} message
 * @property {string[]} topics the topics asked for in the request it answers; empty when it answers none
 */

/**
 * @typedef {object} Handlers
 * @property {(bar: Bar, meta: Meta) => void} [bar]       a newer bar, or the newer state of the newest bar
 * @property {(bar: Bar, meta: Meta) => void} [revision]  a change to a bar before the newest
 * @property {(bars: Bar[], meta: Meta) => void} [snapshot]  history, oldest first: on subscribe, refresh and resume; merge it by time
 * @property {(gap: Gap) => void} [gap]
 * @property {(state: State) => void} [state]             the connection's state; told at once on subscribe
 * @property {(failure: Failure) => void} [error]
 */

/**
 * @typedef {object} SubscribeOptions
 * @property {number} [snapshot]  ask for so many bars of history
 * @property {number} [since]     ask for every bar from this time on (ms since the epoch) instead
 * @property {number} [maxRate]   at most so many updates of a forming bar per second; closed bars always come
 */

/**
 * @typedef {object} Options
 * @property {(state: State) => void} [state]
 * @property {(milliseconds: number) => void} [latency]  round trip of each ping
 * @property {(failure: Failure) => void} [error]
 * @property {number} [pingEvery]    ms between pings; default 10 000
 * @property {number} [pongWithin]   ms after which a missing pong means a lost connection; default 8 000
 * @property {number} [backoffBase]  ms before the first retry, before jitter; default 500
 * @property {number} [backoffMax]   ms that no retry waits longer than; default 15 000
 * @property {typeof WebSocket} [WebSocket]  the constructor, where the platform has none
 */

/** Well within a server's idle time-out, and soon enough to notice a half-open link. */
const PING_EVERY_MS = 10_000;
/** Longer than any round trip that a live chart is useful with. */
const PONG_WITHIN_MS = 8_000;
/** A server that restarts in place is back within a second. */
const BACKOFF_BASE_MS = 500;
/** The longest a person should look at a dead chart after the server is back. */
const BACKOFF_MAX_MS = 15_000;
/** A connection that held so long was a good one, and the next loss starts at the base again. */
const STABLE_AFTER_MS = 5_000;
/** The server takes messages up to 4 KiB; the rest of this is room for the envelope. */
const TOPICS_BYTES_MAX = 3_500;
/** Requests within so much time go out together: scrolling a watchlist must not run into the server's message rate. */
const FLUSH_EVERY_MS = 100;
/** Requests kept to tell which topics an error is about. */
const REQUESTS_KEPT = 256;

/**
 * How long to wait before attempt `attempt` (0 is the first retry): doubled each time up to `max`, the
 * upper half of it random, so that the clients of a restarted server do not come back in one instant.
 *
 * @param {number} attempt
 * @param {{base?: number, max?: number, random?: () => number}} [options] ms, ms, a source of [0, 1)
 * @returns {number} ms
 */
export function backoff(attempt, { base = BACKOFF_BASE_MS, max = BACKOFF_MAX_MS, random = Math.random } = {}) {
  // 2 ** 1024 is Infinity, and the minimum of it and max is still max.
  const full = Math.min(max, base * 2 ** attempt);
  return full / 2 + (random() * full) / 2;
}

/**
 * Merge two lists of bars by time; where both have a bar, `newer` wins. The inputs stay untouched.
 *
 * @param {Bar[]} older  sorted by time
 * @param {Bar[]} newer  in any order; of two with the same time the later one wins
 * @returns {Bar[]} sorted by time, each time once
 */
export function mergeBars(older, newer) {
  const byTime = new Map();
  for (const bar of older) byTime.set(bar.time, bar);
  for (const bar of newer) byTime.set(bar.time, bar);
  return [...byTime.values()].sort((a, b) => a.time - b.time);
}

/**
 * Put one bar into a sorted list, in place.
 *
 * @param {Bar[]} bars
 * @param {Bar} bar
 * @returns {"appended"|"replaced"|"revised"|"inserted"} a new last bar, the last bar's newer state, a change to an
 *   earlier bar, or an earlier bar that was missing
 */
export function putBar(bars, bar) {
  let low = 0;
  let high = bars.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (bars[middle].time < bar.time) low = middle + 1;
    else high = middle;
  }
  const known = low < bars.length && bars[low].time === bar.time;
  const last = low >= bars.length - (known ? 1 : 0);
  bars.splice(low, known ? 1 : 0, bar);
  if (known) return last ? "replaced" : "revised";
  return last ? "appended" : "inserted";
}

/**
 * Whether a topic is covered by a topic or a pattern with `*` for symbol or resolution.
 *
 * @param {string} pattern
 * @param {string} topic
 */
export function covers(pattern, topic) {
  if (!pattern.includes("*")) return pattern === topic;
  const wanted = pattern.split(":");
  const given = topic.split(":");
  return wanted.length === given.length && wanted.every((part, i) => part === "*" || part === given[i]);
}

/** What is known of one topic: its newest bar's time, and whether a reconnect left a hole after it. */
export class Track {
  /** @type {number|null} time of the newest bar seen, ms since the epoch */
  last = null;
  /** @type {Bar|null} the newest bar itself */
  bar = null;
  /** True from a lost connection until the server has shown where it goes on. */
  resuming = false;

  /** The connection was lost. */
  lost() {
    this.resuming = this.last !== null;
  }

  /**
   * @param {Bar} bar
   * @returns {{kind: "bar"|"revision", gap: {from: number, to: number}|null}}
   */
  update(bar) {
    const gap = this.#resumedAt(bar.time);
    if (this.last !== null && bar.time < this.last) return { kind: "revision", gap };
    this.last = bar.time;
    this.bar = bar;
    return { kind: "bar", gap };
  }

  /**
   * @param {Bar[]} bars oldest first
   * @returns {{gap: {from: number, to: number}|null}}
   */
  snapshot(bars) {
    if (bars.length === 0) return { gap: null };
    const gap = this.#resumedAt(bars[0].time);
    const newest = bars[bars.length - 1];
    if (this.last === null || newest.time >= this.last) {
      this.last = newest.time;
      this.bar = newest;
    }
    return { gap };
  }

  /** The server itself told of the gap: it need not be told twice. */
  gap() {
    this.resuming = false;
  }

  /** The bar we stood at is sent again by a server that still has it; anything later leaves a hole. */
  #resumedAt(time) {
    const gap = this.resuming && time > this.last ? { from: this.last, to: time } : null;
    this.resuming = false;
    return gap;
  }
}

/**
 * The parameters of the subscribe request for a topic: what was asked for at first, or, once a bar was seen,
 * everything since that bar.
 *
 * @param {SubscribeOptions} options
 * @param {Track|undefined} track
 * @returns {{snapshot?: number, since?: number, max_rate?: number}}
 */
export function request(options, track) {
  const out = {};
  const since = track?.last ?? options.since;
  if (since !== undefined) out.since = since;
  else if (options.snapshot !== undefined) out.snapshot = options.snapshot;
  if (options.maxRate !== undefined) out.max_rate = options.maxRate;
  return out;
}

/**
 * What several subscriptions of one topic need together.
 *
 * @param {SubscribeOptions[]} all
 * @returns {SubscribeOptions}
 */
export function combine(all) {
  const out = {};
  const snapshots = all.map((o) => o.snapshot).filter((n) => n !== undefined);
  const sinces = all.map((o) => o.since).filter((n) => n !== undefined);
  if (snapshots.length > 0) out.snapshot = Math.max(...snapshots);
  if (sinces.length > 0) out.since = Math.min(...sinces);
  if (all.length > 0 && all.every((o) => o.maxRate !== undefined)) out.maxRate = Math.max(...all.map((o) => o.maxRate));
  return out;
}

/**
 * Group requests with the same parameters, so that a long watchlist costs a few messages, each below the server's
 * message limit.
 *
 * @param {Array<{topic: string, params: object}>} requests
 * @returns {Array<{topics: string[]}>} the payloads to send
 */
export function payloads(requests) {
  const open = new Map();
  const out = [];
  for (const { topic, params } of requests) {
    const key = JSON.stringify(params);
    // The quotes and the comma around it; topics are ASCII, so characters are bytes.
    const size = topic.length + 3;
    let group = open.get(key);
    if (!group || group.size + size > TOPICS_BYTES_MAX) {
      group = { size: 0, payload: { topics: [], ...params } };
      open.set(key, group);
      out.push(group.payload);
    }
    group.size += size;
    group.payload.topics.push(topic);
  }
  return out;
}

/** One subscription, as `client.subscribe` returns it. */
class Subscription {
  #client;
  /** @type {string} */ topic;
  /** @type {SubscribeOptions} */ options;
  /** @type {Handlers} */ handlers;
  /** @type {{snapshot?: number, since?: number}|null} history that has been wished for and has not come yet */
  history;
  /** Whether the wish went out on the present connection. */
  sent = false;

  constructor(client, topic, options, handlers) {
    this.#client = client;
    this.topic = topic;
    this.options = options;
    this.handlers = handlers;
    const { snapshot, since } = options;
    this.history = snapshot === undefined && since === undefined ? null : { snapshot, since };
  }

  /** Stop; nothing is delivered to the handlers from here on. */
  unsubscribe() {
    this.#client.unsubscribe(this);
  }

  /**
   * Ask for history again, for instance after a gap. It comes to the `snapshot` handlers of the topic.
   *
   * @param {number} bars how many
   */
  refresh(bars) {
    this.history = { snapshot: bars };
    this.sent = false;
    this.#client.touch(this);
  }
}

class Client {
  /** @type {State} */ state = { name: "connecting", attempt: 0 };
  #url;
  #options;
  #socket = null;
  /** topic or pattern → its subscriptions, the tracks of the topics seen, and what the server was last asked */
  #entries = new Map();
  #patterns = new Set();
  #dirty = new Set();
  #flushing = false;
  #flushedAt = -Infinity;
  #attempt = 0;
  #requestId = 0;
  #requests = new Map();
  #retryTimer;
  #stableTimer;
  #pingTimer;
  #pongTimer;
  #online = () => this.reconnect();

  constructor(url, options) {
    this.#url = url;
    this.#options = options;
    globalThis.addEventListener?.("online", this.#online);
    this.#open();
  }

  /**
   * Subscribe to a topic (`bars:AAPL:1`), or to a pattern with `*` for the symbol or the resolution.
   * Subscriptions of one topic share what is sent over the wire; each gets the current bar at once if there is one.
   *
   * @param {string} topic
   * @param {SubscribeOptions} [options]
   * @param {Handlers} [handlers]
   * @returns {Subscription}
   */
  subscribe(topic, options = {}, handlers = {}) {
    const subscription = new Subscription(this, topic, options, handlers);
    let entry = this.#entries.get(topic);
    if (!entry) {
      entry = { subscriptions: new Set(), tracks: new Map(), asked: null };
      this.#entries.set(topic, entry);
      if (topic.includes("*")) this.#patterns.add(topic);
    }
    entry.subscriptions.add(subscription);
    this.touch(subscription);
    queueMicrotask(() => this.#current(entry, subscription));
    handlers.state?.(this.state);
    return subscription;
  }

  /** The server sends the current bar to the first subscription of a topic; to later ones it is known here. */
  #current(entry, subscription) {
    for (const [topic, { bar }] of entry.tracks) {
      if (bar !== null && entry.subscriptions.has(subscription)) subscription.handlers.bar?.(bar, { topic });
    }
  }

  /** @param {Subscription} subscription */
  unsubscribe(subscription) {
    if (this.#entries.get(subscription.topic)?.subscriptions.delete(subscription)) this.touch(subscription);
  }

  /**
   * What a subscription needs has changed: tell the server soon, together with all others that changed.
   *
   * @param {Subscription} subscription
   */
  touch({ topic }) {
    this.#dirty.add(topic);
    if (this.#flushing) return;
    this.#flushing = true;
    const flush = () => {
      this.#flushing = false;
      this.#flush();
    };
    const wait = this.#flushedAt + FLUSH_EVERY_MS - performance.now();
    if (wait <= 0) queueMicrotask(flush);
    else setTimeout(flush, wait);
  }

  /** Try now instead of waiting for the next attempt. */
  reconnect() {
    if (this.state.name !== "waiting") return;
    clearTimeout(this.#retryTimer);
    this.#open();
  }

  /** Close for good. */
  close() {
    globalThis.removeEventListener?.("online", this.#online);
    clearTimeout(this.#retryTimer);
    this.#drop();
    this.#setState({ name: "closed", code: 1000, reason: "" });
  }

  #setState(state) {
    this.state = state;
    this.#options.state?.(state);
    for (const entry of this.#entries.values()) {
      for (const { handlers } of entry.subscriptions) handlers.state?.(state);
    }
  }

  #open() {
    this.#setState({ name: "connecting", attempt: this.#attempt });
    const socket = new (this.#options.WebSocket ?? globalThis.WebSocket)(this.#url);
    this.#socket = socket;
    socket.onopen = () => this.#opened();
    socket.onmessage = (event) => this.#receive(event.data);
    socket.onclose = (event) => this.#lost(event.code, event.reason);
    // An error is always followed by a close, which knows more.
    socket.onerror = () => {};
  }

  #opened() {
    this.#stableTimer = setTimeout(() => (this.#attempt = 0), STABLE_AFTER_MS);
    this.#pingTimer = setInterval(() => this.#ping(), this.#options.pingEvery ?? PING_EVERY_MS);
    this.#setState({ name: "open" });
    for (const topic of this.#entries.keys()) this.#dirty.add(topic);
    this.#flush();
    this.#ping();
  }

  /** Forget the socket: whatever it still says is no longer heard. */
  #drop() {
    clearTimeout(this.#stableTimer);
    clearTimeout(this.#pongTimer);
    clearInterval(this.#pingTimer);
    this.#pongTimer = undefined;
    const socket = this.#socket;
    this.#socket = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }

  #lost(code, reason) {
    this.#drop();
    this.#requests.clear();
    for (const entry of this.#entries.values()) {
      entry.asked = null;
      for (const subscription of entry.subscriptions) subscription.sent = false;
      for (const track of entry.tracks.values()) track.lost();
    }
    const wait = backoff(this.#attempt++, { base: this.#options.backoffBase, max: this.#options.backoffMax });
    this.#retryTimer = setTimeout(() => this.#open(), wait);
    this.#setState({ name: "waiting", seconds: wait / 1000, retryAt: Date.now() + wait, attempt: this.#attempt, code, reason });
  }

  #ping() {
    if (this.#pongTimer !== undefined) return;
    const sent = performance.now();
    this.#pongTimer = setTimeout(() => this.#lost(1006, "no pong"), this.#options.pongWithin ?? PONG_WITHIN_MS);
    this.#pong = () => this.#options.latency?.(performance.now() - sent);
    this.#send({ type: "ping" });
  }

  #pong = () => {};

  #send(message) {
    this.#socket.send(JSON.stringify(message));
  }

  #flush() {
    const connected = this.state.name === "open";
    this.#flushedAt = performance.now();
    const wanted = [];
    const unwanted = [];
    for (const topic of this.#dirty) {
      const entry = this.#entries.get(topic);
      if (!entry) continue;
      if (entry.subscriptions.size === 0) {
        this.#entries.delete(topic);
        this.#patterns.delete(topic);
        if (entry.asked !== null) unwanted.push({ topic, params: {} });
      } else if (connected) {
        const params = this.#ask(topic, entry);
        if (params) wanted.push({ topic, params });
      }
    }
    this.#dirty.clear();
    if (!connected) return;
    for (const payload of payloads(unwanted)) this.#send({ type: "bars.unsubscribe", id: this.#id(payload), payload });
    for (const payload of payloads(wanted)) this.#send({ type: "bars.subscribe", id: this.#id(payload), payload });
  }

  /** What to ask the server for a topic now, or null when it has been asked already. */
  #ask(topic, entry) {
    const subscriptions = [...entry.subscriptions];
    const { maxRate } = combine(subscriptions.map((s) => s.options));
    const wishes = subscriptions.filter((s) => s.history !== null && !s.sent);
    const { snapshot, since } = combine(wishes.map((s) => s.history));
    for (const subscription of wishes) subscription.sent = true;
    // A first request resumes, unless somebody still waits for the whole history.
    const resumes = entry.asked === null && snapshot === undefined;
    const params = request({ snapshot, since, maxRate }, resumes ? entry.tracks.get(topic) : undefined);
    const rate = maxRate ?? Infinity;
    if (entry.asked === rate && wishes.length === 0) return null;
    entry.asked = rate;
    return params;
  }

  #id(payload) {
    const id = ++this.#requestId;
    this.#requests.set(id, payload.topics);
    if (this.#requests.size > REQUESTS_KEPT) this.#requests.delete(this.#requests.keys().next().value);
    return id;
  }

  #receive(data) {
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      return;
    }
    switch (message.type) {
      case "bars.update":
        return this.#each(message, (track, emit, meta) => {
          const { kind, gap } = track.update(message.payload);
          if (gap) emit("gap", { topic: message.topic, ...gap, reason: "reconnect" });
          emit(kind, message.payload, meta);
        });
      case "bars.snapshot":
        return this.#each(message, (track, emit, meta) => {
          const { gap } = track.snapshot(message.payload.bars);
          if (gap) emit("gap", { topic: message.topic, ...gap, reason: "reconnect" });
          emit("snapshot", message.payload.bars, meta);
        });
      case "bars.gap":
        return this.#each(message, (track, emit) => {
          track.gap();
          const { from = null, to = null, reason } = message.payload;
          emit("gap", { topic: message.topic, from, to, reason });
        });
      case "pong":
        clearTimeout(this.#pongTimer);
        this.#pongTimer = undefined;
        return this.#pong();
      case "error":
        return this.#failed(message);
    }
  }

  /** Give a message to the entries that cover its topic: its own, and patterns. */
  #each(message, act) {
    const { topic, seq, epoch, ts, rev } = message;
    const meta = { topic, seq, epoch, ts, rev };
    const own = this.#entries.get(topic);
    if (own) this.#give(own, topic, act, meta);
    for (const pattern of this.#patterns) {
      if (covers(pattern, topic)) this.#give(this.#entries.get(pattern), topic, act, meta);
    }
  }

  #give(entry, topic, act, meta) {
    let track = entry.tracks.get(topic);
    if (!track) entry.tracks.set(topic, (track = new Track()));
    const emit = (event, ...args) => {
      for (const subscription of [...entry.subscriptions]) {
        if (event === "snapshot" && subscription.sent) subscription.history = null;
        subscription.handlers[event]?.(...args);
      }
    };
    act(track, emit, meta);
  }

  #failed({ id, payload }) {
    const topics = this.#requests.get(id) ?? [];
    const failure = { code: payload?.code ?? "unknown", message: payload?.message ?? "", topics };
    this.#options.error?.(failure);
    for (const topic of topics) {
      for (const { handlers } of this.#entries.get(topic)?.subscriptions ?? []) handlers.error?.(failure);
    }
  }
}

/**
 * Connect, and stay connected until `close()`.
 *
 * @param {string} [url]  `ws:` or `wss:`; default: `/api/v1/ws` of the page's own server
 * @param {Options} [options]
 * @returns {Client}
 */
export function connect(url = ownServer(), options = {}) {
  return new Client(url, options);
}

function ownServer() {
  const { protocol, host } = globalThis.location;
  return `${protocol === "https:" ? "wss:" : "ws:"}//${host}/api/v1/ws`;
}
