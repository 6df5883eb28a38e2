// A real browser for tests: Debian's Chromium, driven by playwright-core. scripts/test installs both.
// usage: PLAYWRIGHT=<folder with node_modules/playwright-core> node --test tests/browser/*.test.mjs
import { createRequire } from 'node:module';
import path from 'node:path';

/** Looks for nothing on the network by itself. */
const QUIET = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync',
];
/** Longest wait for anything, in ms: slow machines are slow, but nothing waits for ever. */
const PATIENCE_MS = 60_000;

function playwright() {
  const folder = process.env.PLAYWRIGHT;
  if (!folder) throw new Error('PLAYWRIGHT is not set: run scripts/test');
  return createRequire(path.join(path.resolve(folder), 'package.json'))('playwright-core');
}

/** Starts the browser; `close()` ends it. */
export async function launch() {
  const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
  return playwright().chromium.launch({ executablePath, args: QUIET, timeout: PATIENCE_MS });
}

/**
 * A page with what it asked for and complained of while it was open.
 * @param options of playwright's newContext: viewport, colorScheme, javaScriptEnabled …
 */
export async function open(browser, url, options = {}) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  const seen = { requests: [], complaints: [] };
  page.on('request', (request) => seen.requests.push(request.url()));
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) seen.complaints.push(message.text());
  });
  page.on('pageerror', (error) => seen.complaints.push(String(error)));
  await page.goto(url);
  return { page, seen, close: () => context.close() };
}

/**
 * Runs in the page. Every visible text with its box, the ratio of its contrast (WCAG 2.2, 1.4.3) and the
 * box that it must stay in: its plot or its table's cell.
 */
export function texts() {
  const channels = (colour) => (colour.match(/[\d.]+/g) ?? []).map(Number);
  const luminance = (colour) => {
    const [r, g, b] = channels(colour).slice(0, 3).map((c) => {
      const share = c / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => {
    const [light, dark] = [luminance(a), luminance(b)].sort((x, y) => y - x);
    return (light + 0.05) / (dark + 0.05);
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const paper = at.tagName.toLowerCase() === 'svg' ? at.querySelector('.paper') : null;
      const fill = paper && getComputedStyle(paper).fill;
      if (fill && fill !== 'none') return fill;
      const colour = getComputedStyle(at).backgroundColor;
      if (channels(colour)[3] !== 0 && colour !== 'transparent') return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const box = (rect) => ({ left: rect.left, top: rect.top, right: rect.right, bottom: rect.bottom });
  const found = [];
  for (const element of document.querySelectorAll('svg text, h1, h2, h3, p, li, th, td, summary, pre, a')) {
    const words = element.textContent.trim();
    const rect = element.getBoundingClientRect();
    if (!words || rect.width === 0) continue;
    const svg = element.closest('svg');
    const style = getComputedStyle(element);
    found.push({
      words,
      svg: svg?.id ?? null,
      size: svg ? (parseFloat(style.fontSize) * svg.getBoundingClientRect().width) / svg.viewBox.baseVal.width : parseFloat(style.fontSize),
      box: box(rect),
      inside: box((svg ?? element.closest('td, th, body')).getBoundingClientRect()),
      spills: !svg && element.scrollWidth > element.clientWidth + 1 && style.display !== 'inline',
      contrast: contrast(svg ? style.fill : style.color, ground(element)),
    });
  }
  return found;
}

/** How far two boxes lie on each other, in px; 0 when they do not. */
export function overlap(a, b) {
  const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
  const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
  return across > 0 && down > 0 ? Math.min(across, down) : 0;
}
