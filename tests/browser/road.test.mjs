// web/barcast.js in a real browser on bad roads: slow, dead, cut, and with gateways that refuse.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { launch, open } from './browser.mjs';
import { openRoad } from './road.mjs';
import { redis, serve, stopAll, until } from './servers.mjs';

const START = 1_697_097_600_000;
const MINUTE = 60_000;
let browser;
let store;
before(async () => {
  browser = await launch();
  store = await redis();
});
after(async () => {
  await browser?.close();
  await stopAll();
});

const names = (count, prefix) => Array.from({ length: count }, (_, n) => `${prefix}${n}`);

/** One bar of each symbol in each of the minutes from `first` to before `end`. */
async function publish(symbols, first, end) {
  for (let minute = first; minute < end; minute += 1) {
    const bar = { time: START + minute * MINUTE, open: 100.25, high: 101.5, low: 99.75, close: 100.5, volume: 1234.5, closed: true };
    const batch = symbols.map((symbol) => ({ symbol, resolution: '1', bar }));
    await store.command('PUBLISH', 'bars:@batch', JSON.stringify(batch));
  }
}

/** A gateway that knows bars of these symbols, and a road to it. */
async function market(symbols, bars, args = []) {
  const gateway = await serve(store, ['--workers', '1', ...args]);
  await publish(symbols, 0, bars);
  const last = `bars:${symbols.at(-1)}:1`;
  await until('the bars', async () => (await gateway.json('/api/v1/topics?limit=5000')).topics.some(({ topic, last: bar }) => topic === last && bar.time === START + (bars - 1) * MINUTE));
  return { gateway, road: await openRoad(gateway.address) };
}

/** A page with the library, and `start(url, options)` that notes what a client hears of its topics. */
async function library(gateway, before = '') {
  const { page, close } = await open(browser, `${gateway.url}/ui/format.js`);
  await page.evaluate(async (code) => {
    new Function(code)();
    const { connect } = await import('/ui/barcast.js');
    window.start = (url, options = {}) => {
      const heard = { states: [], errors: [], bars: {}, asked: {}, whys: {}, gaps: [] };
      const client = connect(url, { backoffBase: 50, backoffMax: 200, state: (state) => heard.states.push(state), error: (failure) => heard.errors.push(failure), ...options });
      const follow = (topic, wishes) => client.subscribe(topic, wishes, {
        bar: (bar, meta) => (heard.bars[meta.topic] ??= new Set()).add(bar.time),
        snapshot: (bars, { topic, why }) => {
          (heard.whys[topic] ??= []).push(why);
          for (const bar of bars) (heard.bars[topic] ??= new Set()).add(bar.time);
        },
        gap: (gap) => heard.gaps.push(gap),
      });
      const counts = () => Object.fromEntries(Object.entries(heard.bars).map(([topic, times]) => [topic, times.size]));
      return (window.it = { client, heard, follow, counts });
    };
  }, before);
  return { page, close };
}

const stateNames = (page) => page.evaluate(() => window.it.heard.states.map(({ name }) => name));
const counts = (page) => page.evaluate(() => window.it.counts());
const total = async (page) => Object.values(await counts(page)).reduce((sum, count) => sum + count, 0);
const closedWith = async (gateway) => {
  const text = await (await fetch(`${gateway.url}/metrics`)).text();
  return [...text.matchAll(/^barcast_closed_clients_total\{code="(\d+)"\} (\d+)/gm)].filter(([, code, count]) => !['1000', '1001'].includes(code) && count !== '0').map(([, code]) => code);
};

test('a thousand bars over a slow link come on the first connection', async () => {
  const { gateway, road } = await market(['SLOW'], 1_000);
  const { page, close } = await library(gateway);
  // Five times as fast as a telephone whose volume is used up; so the patience with a pong is a fifth, too, and less.
  road.rate = 40_000;
  await page.evaluate((url) => window.start(url, { pongWithin: 800, pingEvery: 400 }).follow('bars:SLOW:1', { snapshot: 1_000 }), road.socket);
  await until('the bars', async () => (await total(page)) === 1_000);
  assert.deepEqual(await stateNames(page), ['connecting', 'open']);
  // Where nothing is under way any more, silence is noticed soon.
  road.isDeaf = true;
  await page.waitForFunction(() => window.it.heard.states.some(({ reason }) => reason === 'no pong'));
  await close();
  road.close();
  await gateway.kill();
});

test('a history that broke off goes on where it stood, topic by topic', async () => {
  const symbols = names(6, 'HALF');
  for (const [topics, connections] of [[symbols.map((symbol) => `bars:${symbol}:1`), 3], [['bars:*:1'], 3]]) {
    const { gateway, road } = await market(symbols, 400);
    const { page, close } = await library(gateway);
    road.rate = 120_000;
    await page.evaluate(([url, topics]) => {
      const { follow } = window.start(url);
      topics.forEach((topic) => follow(topic, { snapshot: 400 }));
    }, [road.socket, topics]);
    for (let nth = 1; nth < connections; nth += 1) {
      await until('a part of it', async () => (await total(page)) >= nth * 800);
      road.cut();
      await until('the next connection', async () => (await stateNames(page)).filter((name) => name === 'open').length > nth);
    }
    await until('all of it', async () => (await total(page)) === 2_400);
    const whys = await page.evaluate(() => Object.values(window.it.heard.whys));
    for (const all of whys) assert.equal(all.filter((why) => why === 'asked').length, 1, JSON.stringify(all));
    await close();
    road.close();
    await gateway.kill();
  }
});

test('an attempt that hangs ends by its time-out, by reconnect(), and when network or page are back', async () => {
  const { gateway, road } = await market(['HANG'], 5);
  const ends = {
    'time-out': [{ connectWithin: 300 }, () => {}],
    'reconnect()': [{}, () => window.it.client.reconnect()],
    online: [{}, () => dispatchEvent(new Event('online'))],
    visible: [{}, () => document.dispatchEvent(new Event('visibilitychange'))],
    resume: [{}, () => document.dispatchEvent(new Event('resume'))],
    pageshow: [{}, () => dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))],
  };
  for (const [name, [options, act]] of Object.entries(ends)) {
    const { page, close } = await library(gateway);
    road.isDeaf = true;
    const made = road.made;
    await page.evaluate(([url, options]) => window.start(url, options).follow('bars:HANG:1'), [road.socket, options]);
    await until(`${name}: the first attempt`, () => road.made > made);
    await page.waitForTimeout(300);
    road.isDeaf = false;
    const began = Date.now();
    await page.evaluate(act);
    await until(`${name}: bars`, async () => (await total(page)) === 1);
    assert.ok(Date.now() - began < 6_000, `${name}: sooner than by the time-out of 8 s`);
    await close();
  }
  road.close();
  await gateway.kill();
});

test('an exception is a failed attempt, and late words of an old socket are not heard', async () => {
  const { gateway, road } = await market(['THROW'], 5);
  const { page, close } = await library(gateway);
  await page.evaluate((url) => {
    let made = 0;
    const sockets = [];
    class Refusing extends WebSocket {
      constructor(address) {
        made += 1;
        if (made === 2) throw new Error('the operation is insecure');
        super(address);
        sockets.push(this);
      }
    }
    window.sockets = sockets;
    window.start(url, { WebSocket: Refusing }).follow('bars:THROW:1');
  }, road.socket);
  await until('bars', async () => (await total(page)) === 1);
  const old = await page.evaluate(() => {
    const { onclose } = window.sockets[0];
    window.old = onclose;
    return typeof onclose;
  });
  assert.equal(old, 'function');
  road.cut();
  await until('the third attempt', async () => (await stateNames(page)).join(' ').endsWith('open waiting connecting waiting connecting open'));
  const [told] = await page.evaluate(() => window.it.heard.states.filter(({ name, attempt }) => name === 'waiting' && attempt === 2));
  assert.equal(told.reason, 'the operation is insecure');
  assert.ok(told.retryIn >= 0 && told.retryIn <= 200);
  await page.evaluate(() => window.sockets[0].dispatchEvent(new CloseEvent('close', { code: 1006 })));
  assert.equal(await page.evaluate(() => window.it.client.state.name), 'open');
  await close();
  road.close();
  await gateway.kill();
});

test('clients of a gateway that goes away come back over seconds', async () => {
  const { gateway, road } = await market(['DRAIN'], 5);
  const { page, close } = await library(gateway);
  await page.evaluate(async (url) => {
    window.waits = [];
    const { connect } = await import('/ui/barcast.js');
    window.clients = Array.from({ length: 40 }, () => connect(url, { state: ({ name, code, retryIn }) => name === 'waiting' && window.waits.push([code, retryIn]) }));
  }, gateway.socket);
  await page.waitForFunction(() => window.clients.every(({ state }) => state.name === 'open'));
  await gateway.stop();
  await page.waitForFunction(() => window.waits.length >= 40);
  const waits = (await page.evaluate(() => window.waits.slice(0, 40))).filter(([code]) => code === 1001).map(([, wait]) => wait);
  assert.equal(waits.length, 40);
  // Of 40 random points in 5 s; that they lie within 2 s has a chance of 10^-14.
  assert.ok(Math.max(...waits) - Math.min(...waits) > 2_000 && Math.max(...waits) <= 5_000, String(waits));
  await close();
  road.close();
});

test('two hundred topics are whole again after a long sleep', async () => {
  const symbols = names(200, 'SLEEP');
  const { gateway, road } = await market(symbols, 5);
  const { page, close } = await library(gateway);
  await page.evaluate(([url, symbols]) => {
    const { follow } = window.start(url);
    symbols.forEach((symbol) => follow(`bars:${symbol}:1`));
  }, [road.socket, symbols]);
  await until('all topics', async () => Object.keys(await counts(page)).length === 200);
  road.isClosed = true;
  road.cut();
  await publish(symbols, 5, 305);
  await until('the bars', async () => (await gateway.json('/api/v1/topics?limit=5000')).topics.every(({ topic, last }) => !topic.includes('SLEEP') || last.time === START + 304 * MINUTE));
  road.isClosed = false;
  await until('all bars of all topics', async () => Object.values(await counts(page)).every((count) => count === 301));
  await publish(symbols, 305, 306);
  await until('live bars', async () => Object.values(await counts(page)).every((count) => count === 302));
  const { errors, gaps } = await page.evaluate(() => window.it.heard);
  assert.deepEqual([errors, gaps, await closedWith(gateway)], [[], [], []]);
  await close();
  road.close();
  await gateway.kill();
});

test('a history that is longer than one answer comes with its newest part and a gap', async () => {
  const { gateway, road } = await market(['LONG'], 5, ['--history-bars', '12000']);
  await publish(['LONG'], 5, 10_500);
  const { page, close } = await library(gateway);
  await page.evaluate(([url, since]) => window.start(url).follow('bars:LONG:1', { since }), [road.socket, START]);
  await until('the newest', async () => (await total(page)) >= 10_000);
  const { gaps, errors } = await page.evaluate(() => window.it.heard);
  assert.deepEqual([errors, gaps.map(({ from, reason }) => [from, reason])], [[], [[START, 'limit']]]);
  await close();
  road.close();
  await gateway.kill();
});

test('what a gateway refuses is told once, costs nothing else, and is had when there is room', async () => {
  const symbols = names(30, 'ROOM');
  const { gateway, road } = await market(symbols, 5, ['--max-topics-per-client', '12']);
  const { page, close } = await library(gateway);
  await page.evaluate(([url, symbols]) => {
    const { follow } = window.start(url);
    // No resolution of a gateway's.
    follow('bars:ROOM0:7');
    window.held = symbols.map((symbol) => follow(`bars:${symbol}:1`));
  }, [road.socket, symbols]);
  const told = () => page.evaluate(() => window.it.heard.errors.flatMap(({ code, topics }) => topics.map((topic) => `${code} ${topic}`)));
  await until('all are taken or told', async () => (await told()).length === 19);
  assert.equal(Object.keys(await counts(page)).length, 12);
  assert.deepEqual((await told()).filter((one) => one.startsWith('bad')), ['bad_request bars:ROOM0:7']);
  // Five go, five others come.
  await page.evaluate(() => {
    const has = Object.keys(window.it.heard.bars);
    window.held.filter((_, nth) => has.includes(`bars:ROOM${nth}:1`)).slice(0, 5).forEach((one) => one.unsubscribe());
  });
  await until('others', async () => Object.keys(await counts(page)).length === 17);
  assert.equal((await told()).length, 19);
  assert.deepEqual([await stateNames(page), await closedWith(gateway)], [['connecting', 'open'], []]);
  await close();
  road.close();
  await gateway.kill();
});

test('a pattern whose history is too much at once comes topic by topic', async () => {
  const symbols = names(30, 'WIDE');
  const { gateway, road } = await market(symbols, 400);
  const { page, close } = await library(gateway);
  await page.evaluate((url) => window.start(url).follow('bars:*:1', { snapshot: 400 }), road.socket);
  await until('all of it', async () => (await total(page)) === 12_000);
  assert.deepEqual(await page.evaluate(() => window.it.heard.errors), []);
  await close();
  road.close();
  await gateway.kill();
});

test('gateways that take less are sent less, until all is there', async () => {
  const symbols = names(120, 'LESS');
  // One long request is too long; many short ones are too many.
  for (const [kinds, ...args] of [[1, '--max-message-bytes', '256'], [40, '--max-messages-per-second', '3']]) {
    const { gateway, road } = await market(symbols, 60, args);
    const { page, close } = await library(gateway);
    await page.evaluate(([url, symbols, kinds]) => {
      const { follow } = window.start(url);
      symbols.forEach((symbol, nth) => follow(`bars:${symbol}:1`, { snapshot: 20 + (nth % kinds) }));
    }, [road.socket, symbols, kinds]);
    await until('all topics', async () => Object.values(await counts(page)).filter((count) => count >= 20).length === 120);
    await close();
    road.close();
    await gateway.kill();
  }
});

test('a clock that is put forward or back changes nothing', async () => {
  const { gateway, road } = await market(['CLOCK'], 5);
  const wrong = 'const R = Date; const now = R.now.bind(R); window.off = 0; window.Date = class extends R { constructor(...a) { a.length ? super(...a) : super(now() + window.off); } static now() { return now() + window.off; } };';
  const { page, close } = await library(gateway, wrong);
  await page.evaluate((url) => window.start(url, { pingEvery: 50, pongWithin: 2_000, ping: () => (window.pongs = (window.pongs ?? 0) + 1) }).follow('bars:CLOCK:1', { snapshot: 5 }), road.socket);
  for (const off of [86_400_000 * 400, -86_400_000 * 400]) {
    const pongs = await page.evaluate((off) => ((window.off = off), window.pongs ?? 0), off);
    await page.waitForFunction((pongs) => window.pongs > pongs + 3, pongs);
    assert.equal(await page.evaluate(() => window.it.client.state.name), 'open');
    await page.evaluate(() => (window.it.heard.states.length = 0));
    road.cut();
    await until('connected again', async () => (await stateNames(page)).at(-1) === 'open');
    assert.deepEqual(await stateNames(page), ['waiting', 'connecting', 'open']);
    const { retryIn } = await page.evaluate(() => window.it.heard.states[0]);
    assert.ok(retryIn <= 200, String(retryIn));
  }
  await close();
  road.close();
  await gateway.kill();
});
