// The pages on bad roads: slow links, answers that do not come, wrong clocks, absences, and browsers and frames in
// which they cannot run. A real gateway, a real browser, and a road between them that is slow or is cut.
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { after, before, test } from 'node:test';

import { launch, open } from './browser.mjs';
import { link } from './link.mjs';
import { dev, redis, serve, stopAll, target, until } from './servers.mjs';

const out = path.join(target, 'browser-tests');
const DESK = { viewport: { width: 1200, height: 800 }, colorScheme: 'light' };
const PHONE = { viewport: { width: 390, height: 800 }, colorScheme: 'light', hasTouch: true, isMobile: true };
const HOUR_MS = 3_600_000;

let browser;
let market;
before(async () => {
  mkdirSync(out, { recursive: true });
  browser = await launch();
  market = await dev(['--symbols', 'AAPL', '--resolutions', '1', '--backfill', '1500', '--history-bars', '2500', '--interval', '0.5']);
});
after(async () => {
  await browser?.close();
  await stopAll();
});

/** A page whose scripts are prepared: by routes, or by what runs before its own. */
async function prepared(options, prepare) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  await prepare(page);
  return { page, close: () => context.close() };
}

const bars = (page) => page.evaluate(() => globalThis.barcast.panels[0].bars.length);
const joined = (page) => page.waitForFunction(() => globalThis.barcast?.panels[0]?.joined);
const text = (page, id) => page.evaluate((of) => document.getElementById(of).textContent, id);

/** Gives the page a clock that is `window.off` ms wrong. */
function wrongClock(off) {
  const Real = Date;
  globalThis.off = off;
  globalThis.Date = class extends Real {
    constructor(...given) {
      super(...(given.length > 0 ? given : [Real.now() + globalThis.off]));
    }

    static now() {
      return Real.now() + globalThis.off;
    }
  };
}

test('a slow link: one list at a time, and a chart that is picked does not wait for it', async () => {
  const symbols = Array.from({ length: 2_000 }, (_, nth) => `SYM${String(nth).padStart(4, '0')}`).join();
  const large = await dev(['--symbols', symbols, '--resolutions', '1,D', '--backfill', '30', '--interval', '5']);
  const road = await link(large.address, { rate: 60_000 });
  const { page, close } = await prepared(DESK, async () => {});
  await page.goto(`${road.url}/#SYM0001:1`);
  await page.waitForFunction(() => document.querySelectorAll('.row').length > 0);
  await page.evaluate(() => (location.hash = '#SYM0100:D'));
  await page.waitForFunction(() => globalThis.barcast.panels[0].symbol === 'SYM0100' && globalThis.barcast.panels[0].bars.length > 0);
  const hidden = () => page.evaluate(() => Number.parseInt(document.getElementById('rows').getAttribute('aria-description') || '0', 10));
  assert.ok((await hidden()) < 1_500, 'the list is still under way');
  // 500 rows are shown of all.
  await until('the whole list', async () => (await hidden()) === 1_500);
  // As the browser timed them: that one has ended is said a moment after the next has begun.
  const overlapping = await page.evaluate(() => {
    const lists = performance.getEntriesByType('resource').filter(({ name }) => name.includes('/api/v1/topics'));
    if (lists.length < 2) return ['too few to overlap'];
    return lists.filter((one) => lists.some((other) => other !== one && other.startTime <= one.startTime && one.startTime < other.responseEnd - 50)).map(({ name }) => name);
  });
  assert.deepEqual(overlapping, []);
  await close();
  road.close();
});

test('older history that failed is said to have, and asked for again', async () => {
  let asked = 0;
  let fails = true;
  const { page, close } = await prepared(DESK, (page) => page.route(/udf\/history\?.*to=(?!8589934592)/, (route) => {
    asked += 1;
    return fails ? route.abort() : route.continue();
  }));
  await page.goto(`${market.url}/#AAPL:1`);
  await joined(page);
  const before = await bars(page);
  await page.locator('.chart').focus();
  await page.keyboard.press('Home');
  await page.waitForFunction(() => /^Older bars could not be loaded: no connection/.test(document.querySelector('.trouble').textContent) && !document.querySelector('.trouble').hidden);
  await page.screenshot({ path: path.join(out, 'page-older-failed.png') });
  await page.keyboard.press('End');
  await page.waitForFunction(() => document.querySelector('.trouble').hidden);
  await page.keyboard.press('Home');
  await until('another attempt', () => asked > 1);
  fails = false;
  await until('the older bars', async () => (await bars(page)) >= before + 500);
  await page.waitForFunction(() => document.querySelector('.trouble').hidden);
  // To its end, which the gateway says: then nobody asks any more.
  await until('all of them', async () => {
    await page.keyboard.press('Home');
    return (await bars(page)) >= 1_500;
  });
  await close();
});

for (const how of ['is not answered', 'fails']) {
  test(`live bars are shown while history ${how}, and joined with it later`, async () => {
    let isAway = true;
    const waiting = [];
    const { page, close } = await prepared(PHONE, (page) => page.route('**/udf/history?*', (route) => {
      if (!isAway) return route.continue();
      return how === 'fails' ? route.abort() : void waiting.push(route);
    }));
    await page.goto(`${market.url}/#AAPL:1`);
    await until('live bars', async () => (await bars(page)) > 0);
    if (how === 'fails') {
      await page.keyboard.press('Home');
      await page.locator('.chart').focus();
      await page.keyboard.press('Home');
      await page.waitForFunction(() => /^History could not be loaded: no connection/.test(document.querySelector('.trouble').textContent));
      await page.screenshot({ path: path.join(out, 'page-history-failed.png') });
    }
    isAway = false;
    waiting.forEach((route) => route.continue());
    await until('history', async () => (await bars(page)) >= 500);
    const times = await page.evaluate(() => globalThis.barcast.panels[0].bars.map(({ time }) => time));
    assert.ok(times.every((time, nth) => nth === 0 || time - times[nth - 1] === 60_000), 'without holes and doubles');
    await page.waitForFunction(() => document.querySelector('.trouble').hidden);
    await close();
  });
}

test('a list that failed is not an empty market', async () => {
  let isAway = true;
  const { page, close } = await prepared(DESK, (page) => page.route('**/api/v1/topics*', (route) => (isAway ? route.abort() : route.continue())));
  await page.goto(`${market.url}/#AAPL:1`);
  await page.waitForFunction(() => /^The list of symbols could not be loaded \(no connection\)/.test(document.getElementById('empty').textContent));
  isAway = false;
  await page.waitForFunction(() => document.querySelectorAll('.row').length === 1 && document.getElementById('empty').hidden);
  await page.route('**/udf/search?*', (route) => route.abort());
  await page.keyboard.press('/');
  await page.waitForFunction(() => document.querySelector('#search .empty').textContent === 'The search failed: no connection');
  await close();
});

/** What the page says of time. */
const says = (page) => page.evaluate(() => ({
  stale: document.querySelector('.stale').textContent,
  latency: document.getElementById('latency').textContent,
  countdown: document.getElementById('countdown-box').hidden ? 'hidden' : document.getElementById('countdown').textContent,
  rate: Number.parseFloat(document.getElementById('rate').textContent),
  clock: document.getElementById('clock').dateTime,
}));

function assertRight({ stale, latency, countdown, rate, clock }, what) {
  assert.equal(stale, '', what);
  assert.match(latency, /^(< 1|\d{1,3}) ms$/, `${what}: latency`);
  assert.match(countdown, /^[01]:\d\d$/, `${what}: countdown`);
  assert.ok(rate > 0.5 && rate < 8, `${what}: ${rate} updates a second`);
  assert.ok(Math.abs(Date.parse(clock) - Date.now()) < 60_000, `${what}: ${clock}`);
}

for (const off of [3 * HOUR_MS, -3 * HOUR_MS, 120_000]) {
  test(`a clock that is ${off / 60_000} minutes wrong changes nothing, nor that it is put right`, async () => {
    const { page, close } = await prepared(DESK, (page) => page.addInitScript(wrongClock, off));
    let lists = 0;
    page.on('request', (request) => (lists += request.url().includes('/api/v1/topics')));
    await page.goto(`${market.url}/#AAPL:1`);
    await joined(page);
    await page.waitForFunction(() => / ms$/.test(document.getElementById('latency').textContent) && document.getElementById('rate').textContent !== '0.0/s');
    assertRight(await says(page), 'wrong');
    await page.evaluate(() => (globalThis.off = 0));
    lists = 0;
    await until('another list', () => lists > 0);
    await page.waitForFunction(() => / ms$/.test(document.getElementById('latency').textContent));
    assertRight(await says(page), 'put right');
    await close();
  });
}

/** Both clocks of the page can be moved on, as a sleep does; on some systems the monotonic one stands still then. */
function movable() {
  const [now, perform] = [Date.now.bind(Date), performance.now.bind(performance)];
  globalThis.moved = { date: 0, monotonic: 0 };
  Date.now = () => now() + globalThis.moved.date;
  performance.now = () => perform() + globalThis.moved.monotonic;
}

for (const [how, by] of [['counts', { date: HOUR_MS, monotonic: HOUR_MS }], ['stops', { date: HOUR_MS, monotonic: 0 }]]) {
  test(`an hour of sleep is no rhythm of the feed where the monotonic clock ${how}`, async () => {
    const store = await redis();
    const gateway = await serve(store);
    const day = Date.now() - (Date.now() % (24 * HOUR_MS));
    let close_ = 100;
    const feed = async (count) => {
      for (let nth = 0; nth < count; nth += 1) {
        await store.publish('AAPL', 'D', { time: day, open: 100, high: 900, low: 1, close: (close_ += 1), volume: 1 });
        await until('it is shown', () => page.evaluate((wanted) => globalThis.barcast?.panels[0]?.bars.at(-1)?.close === wanted, close_));
      }
    };
    const { page, close } = await prepared(DESK, (page) => page.addInitScript(movable));
    await store.publish('AAPL', 'D', { time: day, open: 100, high: 900, low: 1, close: close_, volume: 1 });
    await page.goto(`${gateway.url}/#AAPL:D`);
    await joined(page);
    await feed(10);
    await page.evaluate((to) => (globalThis.moved = to), by);
    await feed(3);
    // Of a feed of several updates a second, ten seconds of silence are told. Learned from the sleep, it would be an hour.
    await page.waitForFunction(() => /^No update for 1\d s$/.test(document.querySelector('.stale').textContent));
    await close();
  });
}

test('the operator\'s page: a slow list does not make the gateway out of reach, nor does a wrong clock change its times', async () => {
  const { page, close } = await prepared(DESK, async (page) => {
    await page.addInitScript(wrongClock, 5 * HOUR_MS);
    await page.route('**/api/v1/topics*', () => {});
  });
  await page.goto(`${market.url}/ops`);
  await page.waitForFunction(() => /the list of topics could not be loaded \(no answer in 5 s\)/.test(document.getElementById('topics-note').textContent));
  assert.equal(await text(page, 'link-name'), 'Live');
  assert.equal(await page.locator('#banner').isHidden(), true);
  assert.match(await text(page, 'about'), /up \d+ (s|min)$/);
  const opened = /opened at (\d\d):(\d\d)/.exec(await text(page, 'counts-note'));
  const here = await page.evaluate(() => new Date(Date.now() - globalThis.off).toLocaleTimeString('en-GB'));
  const minutes = (hour, minute) => Number(hour) * 60 + Number(minute);
  const apart = Math.abs(minutes(opened[1], opened[2]) - minutes(here.slice(0, 2), here.slice(3, 5)));
  assert.ok(apart < 5 || apart > 1_435, `${opened[0]}, and it is ${here}`);
  await close();
});

for (const route of ['/', '/ops']) {
  test(`${route} says what it lacks in a sandboxed frame, an old browser, and without a part of it`, async () => {
    const host = http.createServer((_, response) => response.end(`<!doctype html><iframe sandbox="allow-scripts" src="${market.url}${route}" width="800" height="500"></iframe>`));
    await new Promise((resolve) => host.listen(0, '127.0.0.1', resolve));
    const framed = await open(browser, `http://127.0.0.1:${host.address().port}/`, DESK);
    const line = framed.page.frameLocator('iframe').locator('#support');
    await line.waitFor();
    assert.match(await line.innerText(), /sandboxed frame.*allow-same-origin.*Open the page by itself/s);
    await framed.page.screenshot({ path: path.join(out, `sandboxed${route.replace('/', '-')}.png`) });
    await framed.close();
    host.close();

    const old = await prepared(PHONE, (page) => page.addInitScript(() => delete Array.prototype.findLast));
    await old.page.goto(market.url + route);
    await old.page.locator('#support').waitFor();
    assert.match(await old.page.locator('#support').innerText(), /too old.*Firefox 120/s);
    await old.page.screenshot({ path: path.join(out, `old-browser${route.replace('/', '-')}.png`) });
    await old.close();

    const part = await prepared(DESK, (page) => page.route('**/ui/clock.js', (route) => route.abort()));
    await part.page.goto(market.url + route);
    await part.page.locator('#support').waitFor();
    assert.match(await part.page.locator('#support').innerText(), /could not start: a part of it did not load.*Load it again/s);
    await part.close();

    const bare = await open(browser, market.url + route, { ...DESK, javaScriptEnabled: false });
    assert.match(await bare.page.locator('body').innerText(), /needs JavaScript/);
    await bare.close();
    const well = await open(browser, market.url + route, DESK);
    await well.page.waitForFunction(() => document.documentElement.dataset.started !== undefined);
    assert.equal(await well.page.locator('#support').count(), 0);
    await well.close();
  });
}
