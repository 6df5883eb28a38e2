// What `loadtest report` writes, looked at in a real browser: light, dark, on paper and on a phone.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { launch, open, overlap, texts } from './browser.mjs';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
const data = path.join(root, 'loadtest/tests/data');
const target = path.resolve(root, process.env.CARGO_TARGET_DIR ?? 'target');
const loadtest = process.env.LOADTEST_BIN ?? path.join(target, 'debug/loadtest');
const out = path.join(target, 'browser-tests');

/** WCAG 2.2 asks for 4.5. */
const LEAST_CONTRAST = 4.5;
/** Smallest text in a plot, in px; on paper 8 px are 6 points. */
const LEAST_SIZE = { light: 10, dark: 10, paper: 7.5, phone: 10 };
/** Boxes of text have some room above and below the letters: so much of it may be shared, in px. */
const SHARED = 4;

const looks = {
  light: { colorScheme: 'light', viewport: { width: 1200, height: 900 } },
  dark: { colorScheme: 'dark', viewport: { width: 1200, height: 900 } },
  // A4 at 96 dpi, without its margins.
  paper: { colorScheme: 'dark', viewport: { width: 688, height: 1000 }, media: 'print' },
  phone: { colorScheme: 'light', viewport: { width: 390, height: 800 } },
};

let browser;
before(async () => {
  mkdirSync(out, { recursive: true });
  browser = await launch();
});
after(() => browser?.close());

const file = (name) => path.join(data, `${name}.json`);

function report(name, files) {
  const page = path.join(out, `${name}.html`);
  const svg = path.join(out, `${name}-svg`);
  execFileSync(loadtest, ['report', ...files, '-o', page, '--svg', svg], { timeout: 60_000 });
  return { page, svg };
}

/** A fixture, changed and written where the test may write. */
function changed(from, name, change) {
  const outcome = JSON.parse(readFileSync(file(from), 'utf8'));
  change(outcome);
  const target = path.join(out, `${name}.json`);
  writeFileSync(target, JSON.stringify(outcome));
  return target;
}

async function look(name, page, look) {
  const { media, ...options } = looks[look];
  const { page: tab, seen, close } = await open(browser, pathToFileURL(page).href, options);
  if (media) await tab.emulateMedia({ media, colorScheme: options.colorScheme });
  await tab.screenshot({ path: path.join(out, `${name}-${look}.png`), fullPage: true });
  const found = await tab.evaluate(texts);
  const charts = await tab.$$eval('svg.chart', (all) => all.map((svg) => {
    const { width, height } = svg.getBoundingClientRect();
    const drawn = svg.querySelectorAll('.line, .point, .bar, .median').length;
    const named = svg.querySelector('title')?.textContent && svg.querySelector('desc')?.textContent;
    return { id: svg.id, width, height, drawn, named: Boolean(named) };
  }));
  const wider = await tab.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  await close();

  const where = `${name}, ${look}`;
  assert.deepEqual(seen.complaints, [], where);
  assert.deepEqual(seen.requests, [pathToFileURL(page).href], `${where}: nothing else is asked for`);
  assert.ok(wider <= 0, `${where}: ${wider} px wider than the window`);
  for (const chart of charts) {
    assert.ok(chart.width > 200 && chart.height > 100, `${where}: ${chart.id} is ${chart.width} × ${chart.height}`);
    assert.ok(chart.drawn > 0, `${where}: nothing is drawn in ${chart.id}`);
    assert.ok(chart.named, `${where}: ${chart.id} has no words for those who cannot see it`);
  }
  legible(found, where, look);
  return { charts: charts.map((chart) => chart.id), words: found.map((text) => text.words).join('\n') };
}

function legible(found, where, look) {
  const byPlot = new Map();
  for (const text of found.filter((text) => text.svg)) {
    byPlot.set(text.svg, [...(byPlot.get(text.svg) ?? []), text]);
  }
  for (const text of found) {
    const what = `${where}: ${JSON.stringify(text.words.slice(0, 60))} ${text.svg ?? ''}`;
    assert.ok(text.contrast >= LEAST_CONTRAST, `${what} has a contrast of ${text.contrast.toFixed(2)}`);
    assert.ok(text.size >= LEAST_SIZE[look], `${what} is ${text.size.toFixed(1)} px high`);
    assert.ok(!text.spills, `${what} is wider than its box`);
    const { box, inside } = text;
    if (text.svg) {
      const within = box.left >= inside.left - 1 && box.right <= inside.right + 1
        && box.top >= inside.top - 1 && box.bottom <= inside.bottom + 1;
      assert.ok(within, `${what} leaves its plot`);
    }
  }
  for (const [plot, all] of byPlot) {
    all.forEach((one, nth) => all.slice(nth + 1).forEach((other) => {
      const shared = overlap(one.box, other.box);
      assert.ok(shared <= SHARED, `${where}: in ${plot}, ${one.words} and ${other.words} lie ${shared.toFixed(1)} px on each other`);
    }));
  }
}

const plots = {
  run: ['runs-latency-percentiles', 'runs-latency-over-time', 'runs-throughput', 'runs-cpu', 'runs-memory'],
  pair: ['pairs-cpu-ratio', 'pairs-p99-ratio', 'pair-pair-pulses', 'pair-pair-latency-percentiles'],
  ramp: ['throughput', 'latency', 'residuals', 'cpu', 'memory'].map((plot) => `ramp-ramp-${plot}`),
  churn: ['phases', 'latency-percentiles', 'latency-over-time', 'throughput', 'cpu', 'memory'].map((plot) => `churn-churn-${plot}`),
  compare: ['cpu', 'p99', 'memory', 'latency-percentiles'].map((plot) => `compare-compare-${plot}`),
  plan: ['plan-plan-limits'],
};

for (const [kind, expected] of Object.entries(plots)) {
  test(`a ${kind} is legible in light, dark, on paper and on a phone`, async () => {
    const { page, svg } = report(kind, [file(kind)]);
    for (const each of Object.keys(looks)) {
      const { charts } = await look(kind, page, each);
      assert.deepEqual(charts, expected);
    }
    assert.deepEqual(readdirSync(svg).sort(), expected.map((name) => `${name}.svg`).sort());
  });
}

test('everything is in one report, and runs are laid over each other', async () => {
  const files = ['run', 'yardstick', 'pair', 'compare', 'ramp', 'churn', 'plan'].map(file);
  const { page } = report('all', files);
  for (const each of Object.keys(looks)) {
    const { words } = await look('all', page, each);
    for (const said of ['2 runs.', 'run', 'yardstick', 'loadtest ramp --spawn']) assert.ok(words.includes(said), said);
  }
});

test('a plot as a file is legible as an image by itself', async () => {
  const { svg } = report('files', [file('ramp')]);
  for (const name of readdirSync(svg)) {
    for (const colorScheme of ['light', 'dark']) {
      const url = pathToFileURL(path.join(svg, name)).href;
      const { page, seen, close } = await open(browser, url, { colorScheme });
      const found = await page.evaluate(texts);
      await close();
      assert.deepEqual(seen.complaints, []);
      assert.deepEqual(seen.requests, [url]);
      assert.ok(found.length > 5, `${name}: ${found.length} texts`);
      for (const text of found) assert.ok(text.contrast >= LEAST_CONTRAST, `${name}, ${colorScheme}: ${text.words}`);
    }
  }
});

test('what is not known, empty or hostile does not break it', async () => {
  const none = { count: 0, mean: 0, p50: 0, p90: 0, p99: 0, p999: 0, p9999: 0, max: 0 };
  const hostile = '<script>document.title="taken"</script><img src=http://127.0.0.1:1/x>"\'&'.repeat(3);
  const files = [
    changed('run', 'no-cpu', (run) => {
      Object.assign(run, { cpu: null, memory: null, system_calls: null });
      run.series.forEach((second) => Object.assign(second, { server_cores: null, server_resident: null }));
    }),
    changed('run', 'nothing-came', (run) => {
      Object.assign(run, { delivered: 0, lost: run.expected, lost_topics: [[hostile, 7]], gone: 3, gone_why: [[hostile, 3]], latency_us: none, latency_curve_us: [], ended_early: true });
      run.series.forEach((second) => Object.assign(second, { delivered: 0, latency_us: none }));
    }),
    changed('run', 'one-second', (run) => { run.series = run.series.slice(4, 5); }),
    changed('run', hostile.replace(/[/"]/g, '').slice(0, 80), (run) => {
      Object.assign(run, { server: hostile, series: [] });
      run.machine.command = hostile;
    }),
    changed('pair', 'no-pulse', (pair) => {
      for (const side of [pair.a, pair.b]) Object.assign(side, { server: hostile, pulses: [], latency_us: none, delivered: 0, memory: null });
      const nothing = Object.fromEntries(Object.keys(pair.cpu_ratio).map((key) => [key, 0]));
      Object.assign(pair, { cpu_ratio: nothing, p99_ratio: nothing, ended_early: true });
    }),
    changed('ramp', 'no-knee', (ramp) => Object.assign(ramp, { steps: ramp.steps.slice(0, 1), knee: null, usl: null })),
    changed('ramp', 'no-step', (ramp) => Object.assign(ramp, { steps: [], knee: null, usl: null })),
    changed('churn', 'no-phase', (churn) => Object.assign(churn, { phases: [], storms: [], series: [], cpu: null, memory: null })),
    changed('compare', 'no-server', (compare) => { compare.servers = []; compare.failed = [{ server: hostile, why: hostile }]; }),
    changed('plan', 'bare-plan', (plan) => Object.assign(plan, { title: hostile, years: [], limits: [], savings: [], inputs: [], figures: [], calibration: [], check: null, unknowns: [] })),
  ];
  for (const [nth, one] of files.entries()) await look(`odd-${nth}`, report(`odd-${nth}`, [one]).page, 'light');
  const { page } = report('odd', files);
  for (const each of Object.keys(looks)) await look('odd', page, each);
});

test('a real run makes a report', async () => {
  const json = path.join(out, 'real.json');
  execFileSync(loadtest, [
    'run', '--spawn', '--server', 'floor:gather', '--clients', '20', '--topics', '10', '--per-client', '5',
    '--rate', '20', '--duration', '3', '--warmup', '0.5', '--json', json,
  ], { timeout: 120_000, stdio: 'pipe' });
  const { charts, words } = await look('real', report('real', [json]).page, 'light');
  assert.deepEqual(charts, plots.run);
  assert.ok(words.includes('floor:gather delivered all of 6,000 updates to 20 clients'), words.slice(0, 500));
});
