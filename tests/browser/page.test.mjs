// The chart page of a real gateway in a real browser.
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { launch, open } from './browser.mjs';
import { dev, generate, redis, serve, stopAll, target, until } from './servers.mjs';

const out = path.join(target, 'browser-tests');
const DESK = { viewport: { width: 1280, height: 800 }, colorScheme: 'dark' };
const PHONE = { viewport: { width: 390, height: 800 }, colorScheme: 'light', hasTouch: true, isMobile: true };
/** Text that would take over a page which believed it. */
const HOSTILE = '<img src=x onerror=document.title=1>';
/** What a browser itself says of a server that is away; no page can keep it from that. */
const AWAY = /ERR_CONNECTION_REFUSED|WebSocket connection to|ERR_EMPTY_RESPONSE|ERR_CONNECTION_RESET/;

let browser;
let market;
before(async () => {
  mkdirSync(out, { recursive: true });
  const symbols = path.join(out, 'symbols.toml');
  writeFileSync(symbols, `[symbols.MSFT]\ndescription = "${HOSTILE}"\n`);
  browser = await launch();
  market = await dev(['--symbols', 'AAPL,EUR/USD,GOOGL,MSFT', '--resolutions', '1S,5S,1', '--interval', '0.1', '--symbols-file', symbols]);
});
after(async () => {
  await browser?.close();
  await stopAll();
});

/** Opens the page, and waits until its charts have joined history and live bars. */
async function chart(server, hash = '', options = DESK) {
  const opened = await open(browser, `${server.url}/${hash}`, options);
  await joined(opened.page);
  return opened;
}

const joined = (page) => page.waitForFunction(() => globalThis.barcast?.panels.length > 0 && globalThis.barcast.panels.every((panel) => panel.joined));
const barsOf = (page, nth = 0) => page.evaluate((at) => globalThis.barcast.panels[at].bars, nth);
const specs = (page) => page.evaluate(() => globalThis.barcast.panels.map(({ symbol, resolution }) => `${symbol}:${resolution}`));
const timesOf = (bars) => bars.map((bar) => bar.time);
const plain = ({ time, open, high, low, close, volume }) => ({ time, open, high, low, close, volume });

async function historyOf(server, symbol, resolution, count = 5000) {
  const { t, o, h, l, c, v } = await server.json(`/udf/history?symbol=${symbol}&resolution=${resolution}&to=${2 ** 33}&countback=${count}`);
  return t.map((time, i) => ({ time: time * 1000, open: o[i], high: h[i], low: l[i], close: c[i], volume: v[i] }));
}

/** The pixels of the chart, to see whether they change. */
const pixels = (page) => page.$$eval('.chart canvas', (all) => all.map((canvas) => canvas.toDataURL()).join());

test('candles and volume move, and tell their latency', async () => {
  const { page, seen, close } = await chart(market, '#AAPL:1S');
  const [before, drawn] = [await barsOf(page), await pixels(page)];
  assert.ok(before.length >= 300, `${before.length} bars of history`);
  const now = await until('two more bars', async () => {
    const bars = await barsOf(page);
    return bars.length >= before.length + 2 && bars;
  });
  assert.deepEqual(timesOf(now), [...new Set(timesOf(now))].sort((a, b) => a - b));
  assert.ok(now.at(-1).volume > 0);
  assert.notEqual(await pixels(page), drawn);
  await page.waitForFunction(() => /ms/.test(document.getElementById('latency').textContent) && /ms/.test(document.getElementById('ping').textContent));
  assert.match(await page.title(), /^[\d.,]+ AAPL · barcast$/);
  await page.waitForFunction(() => document.querySelectorAll('.row .last:not(:empty)').length === 4 && /%/.test(document.querySelector('.row .percent').textContent));
  assert.deepEqual(seen.complaints, []);
  await close();
});

test('a killed gateway: the reconnect is seen, fills the hole, and history agrees', async () => {
  const store = await redis();
  const gateway = await serve(store);
  await generate(store, ['--symbols', 'AAPL', '--resolutions', '1S,5S', '--interval', '0.2', '--backfill', '30']);
  await until('topics', async () => (await gateway.json('/api/v1/topics')).total === 2);
  const { page, seen, close } = await chart(gateway, '#AAPL:1S,AAPL:5S');

  await gateway.kill();
  await page.waitForFunction(() => /Reconnecting/.test(document.getElementById('notice').innerText) && /in \d+ s/.test(document.getElementById('notice-count').textContent));
  assert.equal(await page.locator('#state-name').innerText(), 'Reconnecting');
  const stood = (await barsOf(page)).at(-1).time;
  await until('bars that the page misses', () => Date.now() > stood + 4_000);
  await gateway.start();
  await page.waitForFunction(() => /^Resumed: \d+ bars? filled$/.test(document.getElementById('notice-text').textContent), null, { polling: 50 });
  // Each chart says what it got; the sum stands when the second one has.
  await page.waitForFunction(() => Number(/\d+/.exec(document.getElementById('notice-text').textContent)?.[0]) >= 4, null, { polling: 50 });
  assert.equal(await page.locator('#state-name').innerText(), 'Live');

  await until('a live bar after it', async () => (await barsOf(page)).at(-1).time > stood + 6_000);
  for (const [nth, resolution] of ['1S', '5S'].entries()) {
    const shown = await barsOf(page, nth);
    const history = await historyOf(gateway, 'AAPL', resolution);
    const both = (bars) => bars.filter(({ time }) => time >= Math.max(shown[0].time, history[0].time) && time < shown.at(-1).time).map(plain);
    assert.deepEqual(both(shown), both(history), resolution);
    const length = resolution === '1S' ? 1_000 : 5_000;
    const away = shown.filter(({ time }) => time >= stood && time <= stood + 4_000);
    if (resolution === '1S') assert.ok(away.length >= 4, `${away.length} bars of the time away`);
    else assert.ok(timesOf(shown).every((time, at) => at === 0 || time - shown[at - 1].time === length), 'five seconds apart');
  }
  await page.screenshot({ path: path.join(out, 'page-resumed.png') });
  assert.deepEqual(seen.complaints.filter((text) => !AWAY.test(text)), []);
  await close();
});

test('five seconds are the fold of their seconds', async () => {
  const { page, close } = await chart(market, '#GOOGL:1S,GOOGL:5S');
  const [seconds, fives] = [await barsOf(page, 0), await barsOf(page, 1)];
  const folded = new Map();
  for (const bar of seconds) {
    const time = bar.time - (bar.time % 5_000);
    const known = folded.get(time);
    folded.set(time, known
      ? { ...known, high: Math.max(known.high, bar.high), low: Math.min(known.low, bar.low), close: bar.close, volume: known.volume + bar.volume }
      : { ...plain(bar), time });
  }
  const whole = fives.filter(({ time }) => time >= seconds[0].time && time + 5_000 <= seconds.at(-1).time);
  assert.ok(whole.length > 20, `${whole.length} bars to compare`);
  for (const bar of whole) {
    const { volume, ...prices } = folded.get(bar.time);
    const { volume: expected, ...wanted } = plain(bar);
    assert.deepEqual(prices, wanted);
    assert.ok(Math.abs(volume - expected) <= 1e-6 * expected, `${volume} and ${expected}`);
  }
  await close();
});

test('symbols are searched by name; what they are called is text', async () => {
  const { page, seen, close } = await chart(market, '#AAPL:1S');
  await page.keyboard.press('/');
  await page.keyboard.type('msf');
  const found = page.locator('#found [role=option]');
  await page.waitForFunction(() => document.querySelector('#found .name')?.textContent === 'MSFT');
  assert.ok((await found.first().innerText()).includes(HOSTILE));
  await page.keyboard.press('Enter');
  await until('the symbol is shown', async () => (await specs(page))[0] === 'MSFT:1S');
  await joined(page);
  assert.ok(!(await page.locator('#search').isVisible()));

  await page.locator('.pick').click();
  await page.keyboard.type('eur/');
  await page.waitForFunction(() => document.querySelector('#found .name')?.textContent === 'EUR/USD');
  await found.first().click();
  await joined(page);
  assert.equal(await page.evaluate(() => location.hash), '#EUR%2FUSD:1S');

  await page.keyboard.press('/');
  await page.keyboard.type('NEW');
  await page.waitForFunction(() => /No bars yet/.test(document.getElementById('found').textContent));
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => document.querySelector('.note').textContent === 'Waiting for the first bar of bars:NEW:1S');
  assert.deepEqual(seen.complaints, []);
  await close();
});

test('four charts, kept for the next visit and shared by the address', async () => {
  const { page, seen, close } = await chart(market, '#AAPL:1S');
  await page.getByRole('radio', { name: 'Four charts' }).check({ force: true });
  await joined(page);
  assert.deepEqual(await specs(page), ['AAPL:1S', 'EUR/USD:1S', 'GOOGL:1S', 'MSFT:1S']);
  await page.locator('.panel .chart').nth(2).click();
  await page.getByRole('radio', { name: '5 seconds' }).check({ force: true });
  await page.locator('#rows .row', { hasText: 'AAPL' }).click();
  await joined(page);
  const wanted = ['AAPL:1S', 'EUR/USD:1S', 'AAPL:5S', 'MSFT:1S'];
  assert.deepEqual(await specs(page), wanted);
  assert.equal(await page.locator('.chart canvas').first().isVisible(), true);
  const shared = await page.evaluate(() => location.hash);
  await page.screenshot({ path: path.join(out, 'page-four.png') });

  await page.goto('about:blank');
  await page.goto(`${market.url}/`);
  await joined(page);
  assert.deepEqual(await specs(page), wanted, 'kept');
  await page.keyboard.press('2');
  await joined(page);
  assert.deepEqual(await specs(page), wanted.slice(0, 2));
  await page.keyboard.press('4');
  await joined(page);
  assert.deepEqual(await specs(page), wanted, 'what was closed comes back');
  assert.deepEqual(seen.complaints, []);
  await close();

  const other = await chart(market, shared);
  assert.deepEqual(await specs(other.page), wanted, 'shared');
  await other.close();
});

test('the keyboard does it all', async () => {
  const { page, seen, close } = await chart(market, '#AAPL:1S');
  await page.keyboard.press('?');
  assert.ok(await page.getByRole('dialog', { name: 'Keys' }).isVisible());
  await page.keyboard.press('j');
  await page.keyboard.press('Escape');
  assert.deepEqual(await specs(page), ['AAPL:1S'], 'a dialog keeps the keys');
  await page.keyboard.press(']');
  assert.deepEqual(await specs(page), ['AAPL:5S']);
  await page.keyboard.press('j');
  assert.deepEqual(await specs(page), ['EUR/USD:5S']);
  await page.keyboard.press('k');
  await page.keyboard.press('[');
  await page.keyboard.press('2');
  await joined(page);
  assert.deepEqual(await specs(page), ['AAPL:1S', 'EUR/USD:1S']);
  await page.keyboard.press('n');
  await page.keyboard.press(']');
  assert.deepEqual(await specs(page), ['AAPL:1S', 'EUR/USD:5S']);
  await joined(page);
  // The chart has the focus now: from bar to bar, read out.
  await page.keyboard.press('ArrowLeft');
  await page.waitForFunction(() => /open [\d.]+, high/.test(document.getElementById('said').textContent));
  const said = () => page.locator('#said').textContent();
  const first = await said();
  await page.keyboard.press('PageUp');
  await page.waitForFunction((before) => document.getElementById('said').textContent !== before, first);
  assert.ok((await said()).slice(0, 19) < first.slice(0, 19), `${await said()} before ${first}`);
  const dark = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  await page.keyboard.press('t');
  assert.notEqual(await page.evaluate(() => getComputedStyle(document.body).backgroundColor), dark);
  assert.deepEqual(seen.complaints, []);
  await close();
});

test('a phone needs no sideways scrolling', async () => {
  for (const width of [320, 360, 390, 844]) {
    const viewport = { width, height: width === 844 ? 390 : 800 };
    const { page, seen, close } = await chart(market, '#EUR%2FUSD:1S', { ...PHONE, viewport });
    // Not innerWidth: a phone's grows with what does not fit.
    const wide = () => page.evaluate((width) => {
      const beyond = [...document.querySelectorAll('.top *, .quote *, .watch *')].filter((element) => element.getBoundingClientRect().right > width + 1 && !element.closest('.switch'));
      return { page: document.documentElement.scrollWidth - width, beyond: beyond.map((element) => element.id || element.className) };
    }, width);
    assert.deepEqual(await wide(), { page: 0, beyond: [] }, `${width} px`);
    const { width: drawn, height } = await page.locator('.chart').boundingBox();
    assert.ok(drawn > width * 0.6 && height > 120, `${width} px: the chart is ${drawn} × ${height}`);
    await page.getByRole('radio', { name: 'Four charts' }).check({ force: true });
    await joined(page);
    assert.deepEqual(await wide(), { page: 0, beyond: [] }, `${width} px, four charts`);
    await page.screenshot({ path: path.join(out, `page-${width}.png`) });
    assert.deepEqual(seen.complaints, []);
    await close();
  }
});

test('dark and light follow the system, and then the choice', async () => {
  // The colour that the library paints the chart with, where nothing else is.
  const ground = (page) => page.$eval('.chart canvas', (canvas) => [...canvas.getContext('2d').getImageData(2, 2, 1, 1).data].slice(0, 3).reduce((a, b) => a + b) / 3);
  for (const colorScheme of ['dark', 'light']) {
    const { page, close } = await chart(market, '#AAPL:1', { ...DESK, colorScheme });
    const isDark = colorScheme === 'dark';
    await until('the ground is painted', async () => (await ground(page)) < 128 === isDark);
    await page.getByRole('button', { name: isDark ? 'Light theme' : 'Dark theme' }).click();
    await until('the other ground', async () => (await ground(page)) < 128 !== isDark);
    await page.reload();
    await joined(page);
    await until('the choice is kept', async () => (await ground(page)) < 128 !== isDark);
    await close();
  }
});

test('what is old is marked', async () => {
  const store = await redis();
  const gateway = await serve(store);
  const bar = { time: Date.UTC(2024, 0, 2, 9), open: 10, high: 12, low: 9, close: 11, volume: 5 };
  await store.publish('OLD', '1', bar);
  await until('the topic', async () => (await gateway.json('/api/v1/topics')).total === 1);
  const { page, close } = await chart(gateway, '#OLD:1');
  await page.waitForFunction(() => /^Last bar ended \d+ d ago$/.test(document.querySelector('.stale').textContent));
  const minute = Date.now() - (Date.now() % 60_000);
  await store.publish('OLD', '1', { ...bar, time: minute });
  await page.waitForFunction(() => document.querySelector('.stale').hidden);
  await close();
});

test('an interval without trades is a place without a candle', async () => {
  const opened = await open(browser, 'about:blank', DESK);
  const { page, seen } = opened;
  const minute = Date.now() / 1000 - (Date.now() / 1000 % 60) - 86_400;
  await page.route('**/udf/history?*', (route) => route.fulfill({
    json: { s: 'ok', t: [minute, minute + 60, minute + 120].map(Math.floor), o: [1, null, 3], h: [2, null, 4], l: [1, null, 3], c: [2, null, 4], v: [5, 0, 6] },
  }));
  await page.goto(`${market.url}/#NONE:1`);
  await joined(page);
  assert.deepEqual((await barsOf(page)).map((bar) => bar.close), [2, null, 4]);
  await page.keyboard.press('n');
  await page.locator('.chart').focus();
  await page.keyboard.press('ArrowLeft');
  await page.keyboard.press('ArrowLeft');
  await page.waitForFunction(() => /no trades$/.test(document.getElementById('said').textContent));
  assert.equal(await page.locator('[data-part=close]').innerText(), '–');
  assert.deepEqual(seen.complaints, []);
  await opened.close();
});

test('no rule of accessibility is broken', async () => {
  const axe = readFileSync(createRequire(path.join(path.resolve(process.env.PLAYWRIGHT), 'package.json')).resolve('axe-core/axe.min.js'), 'utf8');
  for (const [options, hash] of [[DESK, '#AAPL:1S,MSFT:5S'], [{ ...DESK, colorScheme: 'light' }, '#AAPL:1S'], [PHONE, '#AAPL:1S']]) {
    const { page, close } = await chart(market, hash, options);
    const check = async (where) => {
      // Prices that flash are in every colour for a moment.
      await page.addStyleTag({ content: '*, *::before { animation: none !important; }' });
      const { violations } = await page.evaluate(async () => globalThis.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa', 'best-practice'] }));
      const broken = violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map((node) => node.target).join(' ')}`);
      assert.deepEqual(broken, [], where);
    };
    // As the driver does it, which the page's Content-Security-Policy does not forbid.
    await page.evaluate(axe);
    await check('the page');
    await page.keyboard.press('/');
    await page.keyboard.type('a');
    await page.locator('#found [role=option]').first().waitFor();
    await check('the search');
    await page.keyboard.press('Escape');
    await page.keyboard.press('?');
    await check('the keys');
    await close();
  }
});
