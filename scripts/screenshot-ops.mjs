#!/usr/bin/env node
// Makes docs/ops.png: the operator's page of a gateway with a generator, clients that come and go, and clients
// with a max_rate. Takes two minutes, so that the plots are full. What scripts/test installs must be there.
// usage: PLAYWRIGHT=<folder with node_modules/playwright-core> CARGO_TARGET_DIR=<where cargo built> scripts/screenshot-ops.mjs
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { launch, open } from '../tests/browser/browser.mjs';
import { generate, redis, serve, stopAll } from '../tests/browser/servers.mjs';

const out = path.join(path.dirname(fileURLToPath(import.meta.url)), '../docs/ops.png');
const SYMBOLS = 'AAPL,MSFT,GOOGL,AMZN,NVDA,TSLA,META,EURUSD,GBPUSD,BTC-USD,ETH-USD,SPX';
const CLIENTS = 240;
const SECONDS = 124;

const [browser, store] = await Promise.all([launch(), redis()]);
try {
  const gateway = await serve(store, ['--workers', '2']);
  await generate(store, ['--symbols', SYMBOLS, '--resolutions', '1,5,D', '--interval', '0.25']);
  const crowd = await open(browser, `${gateway.url}/healthz`);
  await crowd.page.evaluate(({ count, url, symbols }) => {
    let nth = 0;
    const join = () => {
      const socket = new WebSocket(url);
      const at = nth++;
      const topics = [`bars:${symbols[at % symbols.length]}:*`, `bars:${symbols[(at * 7) % 4]}:1`];
      socket.onopen = () => socket.send(JSON.stringify({ type: 'bars.subscribe', payload: { topics, ...(at % 5 === 0 ? { max_rate: 2 } : {}) } }));
      return socket;
    };
    const sockets = [];
    // More and fewer of them, as over a day.
    setInterval(() => {
      const wanted = count * (0.75 + 0.25 * Math.sin(performance.now() / 15_000));
      while (sockets.length < wanted) sockets.push(join());
      while (sockets.length > wanted) sockets.shift().close();
    }, 1_000);
  }, { count: CLIENTS, url: gateway.socket, symbols: SYMBOLS.split(',') });
  const options = { viewport: { width: 1280, height: 960 }, colorScheme: 'dark' };
  const { page } = await open(browser, `${gateway.url}/ops`, options);
  await page.waitForTimeout(SECONDS * 1_000);
  await page.screenshot({ path: out });
} finally {
  await browser.close();
  await stopAll();
}
