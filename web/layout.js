/** Which charts are shown, as text for the address and for the next visit. No DOM. */

import { parseTopic } from "./barcast.js";

/** How many charts there can be. */
export const COUNTS = [1, 2, 4];

/** @typedef {{symbol: string, resolution: string}} Spec  what one chart shows */

/**
 * @param {string} text `AAPL:1,EUR%2FUSD:5`
 * @returns {Spec[]} as many as one of `COUNTS`; empty when nothing in it can be shown
 */
export function parseLayout(text) {
  const specs = text.split(",").map(parseSpec).filter(Boolean);
  const count = COUNTS.findLast((n) => n <= specs.length) ?? 0;
  return specs.slice(0, count);
}

function parseSpec(text) {
  let name;
  try {
    name = decodeURIComponent(text);
  } catch {
    return null;
  }
  const spec = parseTopic(`bars:${name}`);
  return spec && spec.symbol !== "*" && spec.resolution !== "*" ? spec : null;
}

/** @param {Spec[]} specs */
export function writeLayout(specs) {
  return specs.map(({ symbol, resolution }) => `${encodeURIComponent(symbol)}:${resolution}`).join(",");
}

/**
 * What further charts show: symbols that are not on the screen yet, in the resolution of the first one; when there
 * are no more, the same symbol in its other resolutions.
 *
 * @param {Spec[]} specs   what is shown
 * @param {number} count
 * @param {Map<string, {resolutions: string[]}>} entries  what there is, by symbol
 * @returns {Spec[]} `count` of them
 */
export function extend(specs, count, entries) {
  const out = specs.slice(0, count);
  if (out.length === 0) return out;
  const { symbol, resolution } = out[0];
  const others = [...entries.keys()].filter((name) => !specs.some((spec) => spec.symbol === name));
  const rest = (entries.get(symbol)?.resolutions ?? []).filter((name) => name !== resolution);
  while (out.length < count) {
    const name = others.shift();
    if (name !== undefined) out.push({ symbol: name, resolution });
    else out.push({ symbol, resolution: rest.shift() ?? resolution });
  }
  return out;
}
