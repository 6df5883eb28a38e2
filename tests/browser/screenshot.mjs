// The picture of the README, and with a folder as argument the page in all its looks.
// usage: scripts/screenshot [FOLDER]
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { launch, open } from './browser.mjs';
import { dev, stopAll, until } from './servers.mjs';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
const picture = path.join(root, 'docs/chart.png');
const folder = process.argv[2];
/** Long enough for a few ticks on every chart, in ms. */
const SETTLE_MS = 4_000;

const desk = (colorScheme, width = 1280, height = 800) => ({ colorScheme, viewport: { width, height } });
const four = '#AAPL:1,NVDA:5,BTC-USD:60,EUR%2FUSD:D';
const looks = {
  light: ['#AAPL:1', desk('light')],
  dark: ['#AAPL:1', desk('dark')],
  four: [four, desk('light', 1440, 900)],
  phone: ['#AAPL:1S', { colorScheme: 'dark', viewport: { width: 390, height: 800 }, isMobile: true, hasTouch: true }],
};

async function take(browser, server, file, [hash, options]) {
  const { page, close } = await open(browser, `${server.url}/${hash}`, options);
  await page.waitForFunction(() => globalThis.barcast?.panels.length > 0 && globalThis.barcast.panels.every((panel) => panel.joined));
  await page.waitForTimeout(SETTLE_MS);
  await page.screenshot({ path: file });
  console.log(file);
  await close();
}

const browser = await launch();
try {
  const symbols = 'AAPL,AMZN,BTC-USD,EUR/USD,GOOGL,META,MSFT,NVDA,TSLA';
  const resolutions = ['1S', '1', '5', '15', '60', 'D'];
  const market = await dev(['--symbols', symbols, '--resolutions', resolutions.join(), '--interval', '0.25', '--seed', '7']);
  const count = symbols.split(',').length * resolutions.length;
  await until('every topic', async () => (await market.json('/api/v1/topics')).total === count);
  if (folder) {
    mkdirSync(folder, { recursive: true });
    for (const [name, look] of Object.entries(looks)) await take(browser, market, path.join(folder, `${name}.png`), look);
  } else {
    await take(browser, market, picture, [four, desk('dark', 1440, 900)]);
  }
} finally {
  await browser.close();
  await stopAll();
}
