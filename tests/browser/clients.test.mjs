// The programs for pages in docs/clients.md, in Chromium, through a gateway that is killed and started again.
// usage: CHROMIUM=/usr/bin/chromium PLAYWRIGHT=<folder with node_modules/playwright-core> node --test tests/browser/clients.test.mjs
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { after, test } from 'node:test';

import { launch } from './browser.mjs';
import { redis, serve, stopAll, until } from './servers.mjs';

const PAGE = readFileSync(new URL('../../docs/clients.md', import.meta.url), 'utf8');
const TOPIC = 'bars:AAPL:1';
const FIRST_MS = 1697097600000;
const MINUTE_MS = 60_000;

function snippet(name) {
  const found = PAGE.split(`<!-- snippet: ${name} -->\n\`\`\`js\n`)[1]?.split('```')[0];
  assert.ok(found, `docs/clients.md has no snippet ${name}`);
  return found;
}

const browser = await launch();
after(async () => {
  await browser.close();
  await stopAll();
});

/** Runs a program in a page of the gateway's origin: the lines that it prints. */
async function run(gateway, program) {
  const page = await browser.newPage();
  const lines = [];
  page.on('console', (message) => lines.push(message.text()));
  page.on('pageerror', (error) => lines.push(`failed: ${error}`));
  // An empty place beside barcast.js, as a copy of it would be. It must come from the gateway: what the test
  // made up would be of no address space, and may not connect to this machine.
  await page.goto(`${gateway.url}/ui/quick-start`);
  await page.addScriptTag({ type: 'module', content: program });
  return lines;
}

/** The states that were shown, each once: a merge by time, as the page says, drops what comes again. */
function shown(lines) {
  const states = lines.flatMap((line) => /^(?:history|live) (\d+) ([\d.]+)/.exec(line)?.slice(1, 3).join(' ') ?? []);
  return [...new Set(states)];
}

test('quick starts for pages resume without a hole and without a double', async () => {
  const store = await redis();
  const gateway = await serve(store);
  const published = [];
  // Kept and published, as docs/protocol.md says of the store.
  const publish = (minute, close, closed = true) => {
    const time = FIRST_MS + minute * MINUTE_MS;
    published.push(`${time} ${close}`);
    const bar = { time, open: 1, high: 9, low: 1, close, volume: 5, ...(closed ? { closed } : {}) };
    const message = JSON.stringify({ symbol: 'AAPL', resolution: '1', bar });
    const command = (...words) => execFileSync('redis-cli', ['-u', store.url, ...words.map(String)]);
    if (closed) command('ZADD', `barcast:history:${TOPIC}`, time, message);
    command('HSET', 'barcast:last', TOPIC, message);
    command('PUBLISH', TOPIC, message);
  };

  for (let minute = 0; minute < 3; minute += 1) publish(minute, 3);
  await until('the bars are there', async () => (await gateway.json('/api/v1/topics')).total === 1);
  const programs = {
    'subscribe.js': await run(gateway, snippet('subscribe.js')),
    'library.js': await run(gateway, snippet('library.js')),
  };
  const allHaveShown = (minute, close) => {
    const state = `${FIRST_MS + minute * MINUTE_MS} ${close}`;
    return until(`all show ${state}`, () => {
      const late = Object.entries(programs).filter(([, lines]) => !shown(lines).includes(state));
      if (late.length > 0) throw new Error(JSON.stringify(late));
      return true;
    });
  };

  await allHaveShown(2, 3);
  publish(3, 2, false);
  await allHaveShown(3, 2);
  await gateway.kill();
  publish(3, 3);
  publish(4, 3);
  publish(5, 2, false);
  await gateway.start();
  await allHaveShown(5, 2);
  publish(5, 3);
  publish(6, 3);
  await allHaveShown(6, 3);
  for (const [name, lines] of Object.entries(programs)) {
    assert.deepEqual(shown(lines), published, `${name}: ${lines.join('\n')}`);
  }
  const all = programs['subscribe.js'].filter((line) => /^(history|live)/.test(line));
  assert.equal(all.length, published.length, 'the program itself shows nothing twice');
});
