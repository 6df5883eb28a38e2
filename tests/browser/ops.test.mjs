// The operator's page on a real gateway with clients, a generator and Redis: what it shows is what /metrics tells,
// and what goes wrong is seen.
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { launch, open, texts } from './browser.mjs';
import { generate, redis, serve, stopAll, target, until } from './servers.mjs';

const out = path.join(target, 'browser-tests');
/** Bars of three topics, every 100 ms. */
const MARKET = ['--symbols', 'AAPL,MSFT,TSLA', '--resolutions', '1', '--interval', '0.1'];
const CLIENTS = 12;
/** A request that failed is the browser's own complaint, and what this page is there to survive. */
const UNREACHABLE = /Failed to load resource: net::ERR_/;
/** WCAG 2.2 asks for 4.5. */
const LEAST_CONTRAST = 4.5;

let browser;
let store;
let gateway;
before(async () => {
  mkdirSync(out, { recursive: true });
  [browser, store] = await Promise.all([launch(), redis()]);
  gateway = await serve(store, ['--workers', '2']);
  await generate(store, MARKET);
});
after(async () => {
  await browser?.close();
  await stopAll();
});

/** WebSocket clients in a page of their own: the gateway's own origin lets them. */
async function clients(count) {
  const { page, close } = await open(browser, `${gateway.url}/healthz`);
  await page.evaluate(({ count, url }) => Promise.all(Array.from({ length: count }, () => new Promise((resolve, reject) => {
    const socket = new WebSocket(url);
    (globalThis.sockets ??= []).push(socket);
    socket.onopen = () => socket.send(JSON.stringify({ type: 'bars.subscribe', payload: { topics: ['bars:AAPL:1', 'bars:MSFT:1'] } }));
    socket.onmessage = resolve;
    socket.onerror = reject;
  }))), { count, url: gateway.socket });
  return { close };
}

async function metrics() {
  const text = await (await fetch(`${gateway.url}/metrics`)).text();
  return (name) => Number(text.split('\n').find((line) => line.startsWith(`${name} `))?.split(' ')[1]);
}

/** The source of axe-core, which knows the rules of accessibility. */
function axe() {
  const folder = path.resolve(process.env.PLAYWRIGHT);
  return readFileSync(createRequire(path.join(folder, 'package.json')).resolve('axe-core/axe.min.js'), 'utf8');
}

const tile = (page, id) => page.locator(`#tile-${id} .ops-value`).textContent();
const number = (text) => Number(text.replace(/[^\d.k]/g, '').replace(/k/, 'e3'));
const complaints = (seen) => seen.complaints.filter((text) => !UNREACHABLE.test(text));

test('what is shown is what the gateway tells', async () => {
  const watching = await clients(CLIENTS);
  const { page, seen, close } = await open(browser, `${gateway.url}/ops`, { viewport: { width: 1280, height: 900 }, colorScheme: 'light' });
  await until('the clients are shown', async () => (await tile(page, 'clients')) === String(CLIENTS));
  const before = { at: performance.now(), delivered: (await metrics())('barcast_delivered_bars_total') };
  await until('plots have lines', () => page.evaluate(() => document.querySelectorAll('.plot-svg .line').length >= 12
    && [...document.querySelectorAll('[data-line="delivered"], [data-line="p99"], [data-line="busy 1"], [data-line="memory"]')].filter((line) => line.getAttribute('d').includes('L')).length === 4));
  const now = await metrics();
  const rate = (now('barcast_delivered_bars_total') - before.delivered) / ((performance.now() - before.at) / 1e3);
  // Two looks of two seconds each do not see the same ticks: near, not equal.
  await until(`about ${rate} are delivered a second`, async () => Math.abs(number(await tile(page, 'delivered')) / rate - 1) < 0.5);
  assert.equal(await tile(page, 'state'), 'Ready');
  assert.equal(await tile(page, 'bus'), 'Connected');
  assert.equal(await tile(page, 'topics'), '3');
  assert.match(await tile(page, 'lag'), /^[\d.]+ (µs|ms|s)$/);

  const rows = await page.$$eval('#workers tr', (all) => all.map((row) => Number(row.cells[1].textContent)));
  assert.equal(rows.length, 2);
  assert.equal(rows[0] + rows[1], CLIENTS, 'every client has its worker');

  const topics = () => page.$$eval('#topics tr', (all) => all.map((row) => [...row.cells].map((cell) => cell.textContent)));
  await until('topics have rates', async () => (await topics()).every((cells) => Number(cells[2]) > 0));
  assert.deepEqual((await topics()).map((cells) => cells.slice(0, 2)), [['bars:AAPL:1', '12'], ['bars:MSFT:1', '12'], ['bars:TSLA:1', '0']]);
  await page.getByRole('button', { name: 'Topic', exact: true }).click();
  await page.getByRole('button', { name: 'Topic', exact: true }).click();
  assert.deepEqual((await topics()).map(([name]) => name), ['bars:TSLA:1', 'bars:MSFT:1', 'bars:AAPL:1']);
  assert.equal(await page.locator('th[aria-sort]').getAttribute('aria-sort'), 'descending');
  await page.locator('body').press('/');
  await page.keyboard.type('msft');
  assert.deepEqual((await topics()).map(([name]) => name), ['bars:MSFT:1']);
  await page.keyboard.type('x');
  assert.deepEqual(await topics(), [['No topic matches']]);

  // By keyboard as by mouse: an earlier moment is read out.
  const plot = page.getByRole('slider', { name: /^Delivered:/ });
  const newest = await plot.getAttribute('aria-valuetext');
  assert.match(newest, /^\d\d:\d\d:\d\d: Delivered [\d.]+( k)?\/s, Due /);
  await plot.focus();
  await page.keyboard.press('ArrowLeft');
  assert.equal(await plot.locator('.cursor').count(), 1);
  await page.keyboard.press('Escape');
  assert.equal(await plot.locator('.cursor').count(), 0);
  const box = await plot.boundingBox();
  await page.mouse.move(box.x + box.width - 20, box.y + 60);
  assert.equal(await plot.locator('.cursor').count(), 1);

  await watching.close();
  await until('they have left', async () => (await tile(page, 'clients')) === '0');
  assert.deepEqual(seen.complaints, []);
  assert.ok(seen.requests.every((url) => url.startsWith(gateway.url)), 'nothing from elsewhere is asked for');
  await close();
});

test('a lost Redis is seen, and that it is back', async () => {
  const { page, seen, close } = await open(browser, `${gateway.url}/ops`);
  await until('connected', async () => (await tile(page, 'bus')) === 'Connected');
  await store.kill();
  await until('lost', async () => (await tile(page, 'bus')) === 'Lost' && (await tile(page, 'state')) === 'Not ready');
  assert.equal(await page.locator('#banner').isHidden(), true, 'the gateway itself is well');
  await store.start();
  await until('back', async () => (await tile(page, 'bus')) === 'Connected' && (await tile(page, 'state')) === 'Ready');
  assert.match(await page.locator('#counts').innerText(), /Connections to Redis made again\s+1\s+1/);
  assert.deepEqual(seen.complaints, []);
  await close();
});

test('a killed gateway is seen, nothing is made up meanwhile, and figures go on with the next one', async () => {
  const { page, seen, close } = await open(browser, `${gateway.url}/ops`);
  const received = () => page.locator('[data-line="received"]').getAttribute('d').catch(() => '');
  await until('bars come', async () => (await received()).includes('L'));
  await gateway.kill();
  await until('the banner', () => page.getByRole('alert').isVisible());
  assert.match(await page.getByRole('alert').textContent(), /cannot be reached since/);
  assert.equal(await tile(page, 'clients'), '–');
  await gateway.start();
  await until('the banner has gone', () => page.locator('#banner').isHidden());
  // What is told at every look would be one line without the hole.
  const pieces = () => page.locator('[data-line="memory"]').getAttribute('d').then((line) => line.match(/M/g).length);
  await until('lines go on after a hole', async () => (await pieces()) === 2 && (await received()).includes('L'));
  const values = await page.$eval('[data-line="received"]', (line) => line.getAttribute('d'));
  assert.doesNotMatch(values, /NaN|-\d/, 'no rate below zero');
  assert.deepEqual(complaints(seen), []);
  await close();
});

for (const [name, options] of Object.entries({
  phone: { viewport: { width: 390, height: 800 }, colorScheme: 'light' },
  wide: { viewport: { width: 1440, height: 900 }, colorScheme: 'dark' },
  dark: { viewport: { width: 1280, height: 900 }, colorScheme: 'dark' },
  light: { viewport: { width: 1280, height: 900 }, colorScheme: 'light' },
})) {
  test(`everything can be read: ${name}`, async () => {
    const { page, seen, close } = await open(browser, `${gateway.url}/ops`, options);
    await until('plots have lines', () => page.evaluate(() => document.querySelectorAll('.plot-svg .line').length >= 12));
    await page.screenshot({ path: path.join(out, `ops-${name}.png`), fullPage: true });
    const wider = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.ok(wider <= 0, `${wider} px wider than the window`);
    const cut = await page.$$eval('.ops-value', (all) => all.filter((each) => each.scrollWidth > each.clientWidth).map((each) => each.textContent));
    assert.deepEqual(cut, [], 'no figure is cut off');
    const unnamed = await page.$$eval('button, input, select, a, [role="slider"], [tabindex="0"]', (all) => all
      .filter((each) => !(each.getAttribute('aria-label') || each.getAttribute('aria-labelledby') || each.labels?.length || each.textContent.trim()))
      .map((each) => each.outerHTML));
    assert.deepEqual(unnamed, []);
    for (const { words, contrast } of await page.evaluate(texts)) {
      assert.ok(contrast >= LEAST_CONTRAST, `${words.slice(0, 60)} has a contrast of ${contrast.toFixed(2)}`);
    }
    // As the driver does it, which the page's Content-Security-Policy does not forbid.
    await page.evaluate(axe());
    const { violations } = await page.evaluate(() => globalThis.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa', 'best-practice'] }));
    assert.deepEqual(violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map((node) => node.target).join(' ')}`), []);
    assert.deepEqual(seen.complaints, []);
    await close();
  });
}
