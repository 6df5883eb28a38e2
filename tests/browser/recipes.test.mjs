// The programs of docs/udf.md in Chromium, on a real gateway: after breaks, corrections and filled gaps the chart
// has what the gateway's history has. lightweight-charts is the library itself. TradingView's Charting Library is
// not to be had here: what stands for it keeps the rules of its documentation and tells of each that is broken.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';

import { launch } from './browser.mjs';
import { link } from './link.mjs';
import { redis, serve, stopAll, until } from './servers.mjs';

const PAGE = readFileSync(new URL('../../docs/udf.md', import.meta.url), 'utf8');
const MINUTE_MS = 60_000;
const FIRST_MS = Math.floor(Date.now() / MINUTE_MS) * MINUTE_MS - 30 * MINUTE_MS;

let browser;
before(async () => (browser = await launch()));
after(async () => {
  await browser?.close();
  await stopAll();
});

function snippet(name, road) {
  const found = PAGE.split(`<!-- snippet: ${name} -->\n\`\`\`js\n`)[1]?.split('```')[0];
  assert.ok(found, `docs/udf.md has no snippet ${name}`);
  return found.replaceAll('https://bars.example.com', road.url).replaceAll('wss://bars.example.com', `ws://${road.address}`)
    .replace('"lightweight-charts"', '"./vendor/lightweight-charts.standalone.production.mjs"');
}

/** A gateway with three closed bars and a forming one, a road to it, and a page on it with an empty chart. */
async function stage() {
  const store = await redis();
  const gateway = await serve(store, ['--cors-origin', '*']);
  const road = await link(gateway.address);
  const publish = (nth, close, { closed = false, ...extra } = {}) => {
    const prices = close === null ? { open: null, high: null, low: null, close, volume: 0 } : { open: 100, high: 200, low: 50, close, volume: 10 };
    const bar = { time: FIRST_MS + nth * MINUTE_MS, ...prices, ...(closed && { closed }) };
    return store.command('PUBLISH', 'bars:AAPL:1', JSON.stringify({ symbol: 'AAPL', resolution: '1', bar, ...extra }));
  };
  for (const nth of [0, 1, 2]) await publish(nth, 100 + nth, { closed: true });
  await publish(3, 103);
  await until('the topic', async () => (await gateway.json('/api/v1/topics')).total === 1);
  const page = await browser.newPage();
  const errors = [];
  page.on('pageerror', (error) => errors.push(String(error)));
  // Beside barcast.js, as a copy of it would be; see clients.test.mjs.
  await page.goto(`${gateway.url}/ui/recipe`);
  await page.evaluate(() => {
    document.body.innerHTML = '<div id="chart" style="width: 600px; height: 300px"></div>';
  });
  const history = async () => {
    const { t, c } = await gateway.json(`/udf/history?symbol=AAPL&resolution=1&to=${2 ** 33}&countback=100`);
    return t.map((time, at) => `${(time * 1000 - FIRST_MS) / MINUTE_MS}=${c[at]}`).join(' ');
  };
  return { road, publish, page, errors, history };
}

/** What may happen to a chart; `shown` is what it has, as `history` writes it. */
async function live({ road, publish, errors, history }, shown) {
  const agree = (what, wanted) => until(what, async () => {
    assert.equal(await history(), wanted);
    return (await shown()) === wanted;
  }).catch(async (error) => assert.fail(`${error.message}\nshown: ${await shown()}\nerrors: ${errors}`));
  await agree('the history', '0=100 1=101 2=102 3=103');
  await publish(3, 103.5, { closed: true });
  await publish(4, 104);
  await publish(2, 92, { closed: true, rev: 1 });
  await publish(4, 104.5);
  await agree('a correction', '0=100 1=101 2=92 3=103.5 4=104.5');

  road.cut();
  await publish(2, 93, { closed: true, rev: 2 });
  await publish(4, 104.7, { closed: true });
  await publish(5, 105, { closed: true });
  await publish(6, 106);
  await agree('a break', '0=100 1=101 2=93 3=103.5 4=104.7 5=105 6=106');

  // A message is missed, and comes later as a bar before the newest.
  await publish(6, 106.5, { closed: true, seq: 1, epoch: 7 });
  await publish(8, 108, { seq: 3, epoch: 7 });
  await agree('a hole', '0=100 1=101 2=93 3=103.5 4=104.7 5=105 6=106.5 8=108');
  await publish(7, 107, { closed: true });
  await publish(8, 108.5);
  await agree('a filled hole', '0=100 1=101 2=93 3=103.5 4=104.7 5=105 6=106.5 7=107 8=108.5');
  assert.deepEqual(errors, []);
}

test('lightweight-charts shows what the gateway has, after breaks, corrections and filled gaps', async () => {
  const scene = await stage();
  await scene.page.addScriptTag({ type: 'module', content: `${snippet('lightweight-charts.js', scene.road)}\nglobalThis.candles = candles;` });
  const shown = () => scene.page.evaluate(([first, minute]) => (globalThis.candles?.data() ?? [])
    .map(({ time, close }) => `${(time * 1000 - first) / minute}=${close}`).join(' '), [FIRST_MS, MINUTE_MS]);
  await live(scene, shown);
  // An interval without trades is a place without a candle.
  await scene.publish(9, null, { closed: true });
  await scene.publish(10, 110);
  await until('what comes after an interval without trades', async () => / 8=108\.5( 9=undefined)? 10=110$/.test(await shown()));
  assert.deepEqual(scene.errors, []);
  await scene.page.close();
  scene.road.close();
});

/** Runs in the page: what stands for TradingView's library and its UDF adapter. */
function library(resubscribes) {
  globalThis.violations = [];
  const broken = (rule) => globalThis.violations.push(rule);
  globalThis.Datafeeds = {
    UDFCompatibleDatafeed: class {
      constructor(url) {
        this.url = url;
      }

      async getBars(symbol, resolution, { from, to, countBack }, onResult) {
        const query = new URLSearchParams({ symbol: symbol.ticker, resolution, from, to, countback: countBack });
        const { t = [], o, h, l, c, v } = await (await fetch(`${this.url}/history?${query}`)).json();
        onResult(t.map((time, i) => ({ time: time * 1000, open: o[i], high: h[i], low: l[i], close: c[i], volume: v[i] })), { noData: t.length === 0 });
      }

      subscribeBars() {}

      unsubscribeBars() {}
    },
  };
  const symbol = { ticker: 'AAPL' };
  globalThis.TradingView = {
    widget: class {
      #datafeed;
      #cache = null;
      #id = 0;
      bars = [];

      constructor({ datafeed, interval }) {
        this.#datafeed = datafeed;
        this.interval = interval;
        queueMicrotask(() => this.#load());
      }

      chartsCount() {
        return 1;
      }

      chart() {
        return { resetData: () => this.#load() };
      }

      #load() {
        const done = (bars) => {
          this.#cache = bars;
          if (bars.some((bar, nth) => nth > 0 && bar.time <= bars[nth - 1].time)) broken('getBars: bars ascend by time');
          this.bars = structuredClone(bars);
          if (this.#id > 0 && !resubscribes) return;
          if (this.#id > 0) this.#datafeed.unsubscribeBars(String(this.#id));
          this.#id += 1;
          // Not from within the answer, as the documentation says of every callback.
          setTimeout(() => this.#datafeed.subscribeBars(symbol, this.interval, (bar) => this.#tick(bar), String(this.#id), () => (this.#cache = null)), 0);
        };
        // What is in the cache is not asked for again: onResetCacheNeededCallback comes before resetData.
        if (this.#cache) return done(this.#cache);
        this.#datafeed.getBars(symbol, this.interval, { from: 0, to: 2 ** 33, countBack: 300, firstDataRequest: true }, done, broken);
      }

      #tick(bar) {
        const last = this.bars.at(-1);
        if (typeof bar.time !== 'number' || [bar.open, bar.high, bar.low, bar.close].some((value) => typeof value !== 'number')) return void broken('onTick: numbers');
        if (last && bar.time < last.time) return void broken(`onTick: time violation, ${bar.time} after ${last.time}`);
        if (last?.time === bar.time) this.bars.pop();
        this.bars.push(structuredClone(bar));
      }
    },
  };
}

for (const [how, resubscribes] of [['keeps its subscription', false], ['subscribes again', true]]) {
  test(`the rules of the Charting Library are kept when it ${how} after a reset`, async () => {
    const scene = await stage();
    await scene.page.evaluate(library, resubscribes);
    const program = `${snippet('datafeed.js', scene.road)}\n${snippet('charting-library.js', scene.road)}\nglobalThis.widget = widget;`;
    await scene.page.addScriptTag({ type: 'module', content: program });
    const shown = () => scene.page.evaluate(([first, minute]) => (globalThis.widget?.bars ?? [])
      .map(({ time, close }) => `${(time - first) / minute}=${close}`).join(' '), [FIRST_MS, MINUTE_MS]);
    await live(scene, shown);
    assert.deepEqual(await scene.page.evaluate(() => globalThis.violations), []);
    await scene.page.close();
    scene.road.close();
  });
}
