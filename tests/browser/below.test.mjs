// The pages of a gateway below a path (--base-path), in a real browser: charts are live, and the operator's page has figures.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { launch, open } from './browser.mjs';
import { generate, redis, serve, stopAll, until } from './servers.mjs';

let browser;
let gateway;
before(async () => {
  const [launched, store] = await Promise.all([launch(), redis()]);
  browser = launched;
  gateway = await serve(store, ['--base-path', '/site/bars']);
  await generate(store, ['--symbols', 'AAPL', '--resolutions', '1', '--interval', '0.1']);
});
after(async () => {
  await browser?.close();
  await stopAll();
});

test('a chart below a path is live', async () => {
  const { page, seen, close } = await open(browser, `${gateway.url}/site/bars`);
  assert.equal(page.url().split('#')[0], `${gateway.url}/site/bars/`);
  await page.waitForFunction(() => globalThis.barcast?.panels.length > 0 && globalThis.barcast.panels.every((panel) => panel.joined));
  assert.deepEqual(seen.complaints, []);
  await close();
});

test('figures below a path are shown', async () => {
  const { page, seen, close } = await open(browser, `${gateway.url}/site/bars/ops`);
  await until('the topic is counted', async () => (await page.locator('#tile-topics .ops-value').textContent()) === '1');
  assert.deepEqual(seen.complaints, []);
  await close();
});
