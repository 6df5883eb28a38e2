// web/barcast.js against a real gateway in a real browser: the page of docs/barcast-js.md, and what it promises.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { launch, open } from './browser.mjs';
import { generate, redis, serve, stopAll, until } from './servers.mjs';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
const library = readFileSync(path.join(root, 'web/barcast.js'), 'utf8');
const document_ = readFileSync(path.join(root, 'docs/barcast-js.md'), 'utf8');
let browser;
let store;
let gateway;
before(async () => {
  browser = await launch();
  store = await redis();
  gateway = await serve(store);
  await generate(store, ['--symbols', 'AAPL,MSFT', '--resolutions', '1S', '--interval', '0.2', '--backfill', '20']);
  await until('topics', async () => (await gateway.json('/api/v1/topics')).total === 2);
});
after(async () => {
  await browser?.close();
  await stopAll();
});

/** A page of another server than the gateway, with a copy of the library beside it. */
async function elsewhere(html) {
  const server = http.createServer((request, response) => {
    const isLibrary = request.url === '/barcast.js';
    response.setHeader('content-type', isLibrary ? 'text/javascript' : 'text/html');
    response.end(isLibrary ? library : request.url === '/' ? html : '');
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const opened = await open(browser, `http://127.0.0.1:${server.address().port}/`);
  const close = async () => {
    await opened.close();
    server.closeAllConnections();
    server.close();
  };
  return { ...opened, close };
}

test('the page of the document runs, and survives a restart of the gateway', async () => {
  const [, html] = /<!-- snippet: example\.html -->\s+```html\n([\s\S]*?)```/.exec(document_) ?? [];
  const address = 'ws://127.0.0.1:8000/api/v1/ws';
  assert.ok(html?.includes(address), 'the document names the address');
  const { page, close } = await elsewhere(html.replace(address, gateway.socket));
  const counts = () => page.$$eval('#prices tr', (rows) => rows.map((row) => Number(/^(\d+) bars/.exec(row.cells[2].textContent)?.[1])));
  await until('ten bars each', async () => (await counts()).every((count) => count >= 10));
  await gateway.kill();
  await page.waitForFunction(() => /^lost, next attempt in \d+ s$/.test(document.getElementById('state').textContent));
  const before = await counts();
  await gateway.start();
  await page.waitForFunction(() => document.getElementById('state').textContent === 'open');
  await until('more bars', async () => (await counts()).every((count, nth) => count > before[nth]));
  await close();
});

test('snapshots, patterns, since and rates are what the document says', async () => {
  const { page, seen, close } = await elsewhere('<!doctype html><title>test</title>');
  const heard = await page.evaluate(async (url) => {
    const { connect } = await import('./barcast.js');
    const client = connect(url);
    const told = { snapshots: {}, pattern: new Set(), order: true, errors: [] };
    const patience = Date.now() + 30_000;
    const until = async (look) => {
      while (!look() && Date.now() < patience) await new Promise((done) => setTimeout(done, 20));
    };
    client.subscribe('bars:AAPL:1S', { snapshot: 5 }, { snapshot: (bars, { why }) => (told.snapshots.asked ??= [bars.length, why]) });
    let last = 0;
    client.subscribe('bars:*:1S', { maxRate: 5 }, {
      bar: ({ time }, { topic }) => {
        told.pattern.add(topic);
        if (topic === 'bars:MSFT:1S') told.order &&= time >= last;
        if (topic === 'bars:MSFT:1S') last = time;
      },
    });
    await until(() => told.pattern.size === 2 && told.snapshots.asked);
    const since = last - 10_000;
    const subscription = client.subscribe('bars:MSFT:1S', { since }, { snapshot: (bars) => (told.snapshots.since = bars[0].time === since && bars.length >= 11) });
    await until(() => told.snapshots.since !== undefined);
    subscription.unsubscribe();
    // The pattern still means the topic that was let go by name.
    const stood = last;
    await until(() => last >= stood + 2_000);
    told.goesOn = last >= stood + 2_000;
    client.subscribe('bars:AAPL:7', {}, { error: ({ code, topics }) => told.errors.push(code, ...topics) });
    await until(() => told.errors.length > 0);
    client.close();
    return { ...told, pattern: [...told.pattern].sort(), state: client.state.name };
  }, gateway.socket);
  assert.deepEqual(heard, {
    snapshots: { asked: [5, 'asked'], since: true },
    pattern: ['bars:AAPL:1S', 'bars:MSFT:1S'],
    order: true,
    errors: ['bad_request', 'bars:AAPL:7'],
    goesOn: true,
    state: 'closed',
  });
  assert.deepEqual(seen.complaints, []);
  await close();
});

test('what changed while the client was away comes with the resume', async () => {
  const second = (back) => Math.floor(Date.now() / 1000) * 1000 - back * 1000;
  const [first, later] = [second(60), second(59)];
  const bar = (time, close) => ({ time, open: 1, high: 9, low: 1, close, volume: 1 });
  await store.publish('REV', '1S', { ...bar(first, 2), closed: true });
  await store.publish('REV', '1S', bar(later, 3));
  await until('the topic', async () => (await gateway.json('/api/v1/topics')).topics.some(({ topic, last }) => topic === 'bars:REV:1S' && last.time === later));
  const { page, close } = await elsewhere('<!doctype html><title>test</title>');
  // A client whose socket the test can take away, while the gateway goes on.
  await page.evaluate(async (url) => {
    const { connect, mergeBars } = await import('./barcast.js');
    globalThis.sockets = [];
    globalThis.isAway = false;
    class Counted extends WebSocket {
      constructor(address) {
        super(globalThis.isAway ? 'ws://127.0.0.1:1/' : address);
        globalThis.sockets.push(this);
      }
    }
    globalThis.bars = [];
    globalThis.whys = [];
    globalThis.client = connect(url, { WebSocket: Counted, backoffBase: 50, backoffMax: 100 });
    globalThis.client.subscribe('bars:REV:1S', { snapshot: 10 }, {
      snapshot: (some, { why }) => {
        globalThis.whys.push(why);
        globalThis.bars = mergeBars(globalThis.bars, some);
      },
      bar: (one) => (globalThis.bars = mergeBars(globalThis.bars, [one])),
    });
  }, gateway.socket);
  await page.waitForFunction(() => globalThis.bars.length === 2);
  await page.evaluate(() => {
    globalThis.isAway = true;
    globalThis.sockets[0].close();
  });
  await page.waitForFunction(() => globalThis.client.state.name === 'waiting');
  await store.publish('REV', '1S', bar(second(50), 4));
  await store.publish('REV', '1S', bar(second(40), 5));
  await until('the newest bar', async () => (await gateway.json('/api/v1/topics')).topics.some(({ topic, last }) => topic === 'bars:REV:1S' && last.close === 5));
  await page.evaluate(() => (globalThis.isAway = false));
  await page.waitForFunction(() => globalThis.bars.length === 4);
  assert.deepEqual(await page.evaluate(() => [globalThis.bars.map((bar) => bar.close), globalThis.whys]), [[2, 3, 4, 5], ['asked', 'resume']]);
  await close();
});
