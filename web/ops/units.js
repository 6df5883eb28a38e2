/** How figures are written, and where an axis has its lines. No DOM, so that it can be tested. */

/** What stands for a figure that is not known. */
export const UNKNOWN = "–";

const SECOND_MS = 1_000;

/** Significant digits for people: 1.24 M, 12.4 k, 124, 12.4, 1.24, 0.124. */
function short(number) {
  const size = Math.abs(number);
  const digits = size === 0 || size >= 100 ? 0 : size >= 10 ? 1 : size >= 0.1 ? 2 : 3;
  return number.toFixed(digits).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
}

function scaled(number, base, names) {
  let at = 0;
  let left = number;
  // What would round to 1,000 goes to the next name.
  while (Math.abs(left) >= base * 0.9995 && at < names.length - 1) {
    left /= base;
    at += 1;
  }
  return names[at] ? `${short(left)} ${names[at]}` : short(left);
}

/** @param {number|null} number */
export function count(number) {
  return number === null ? UNKNOWN : scaled(number, 1_000, ["", "k", "M", "G", "T"]);
}

/** All digits, grouped. @param {number|null} number */
export function whole(number) {
  return number === null ? UNKNOWN : Math.round(number).toLocaleString("en-US");
}

/** @param {number|null} number */
export function perSecond(number) {
  return number === null ? UNKNOWN : `${count(number)}/s`;
}

/** @param {number|null} number */
export function bytes(number) {
  return number === null ? UNKNOWN : scaled(number, 1_024, ["B", "KiB", "MiB", "GiB", "TiB"]);
}

/** @param {number|null} number */
export function bytesPerSecond(number) {
  return number === null ? UNKNOWN : `${bytes(number)}/s`;
}

/** @param {number|null} share 0 to 1 */
export function percent(share) {
  return share === null ? UNKNOWN : `${short(share * 100)} %`;
}

/** @param {number|null} number */
export function cores(number) {
  if (number === null) return UNKNOWN;
  return `${short(number)} ${short(number) === "1" ? "core" : "cores"}`;
}

/** @param {number|null} seconds; above the last bound of the histogram `Infinity` */
export function lag(seconds) {
  if (seconds === null) return UNKNOWN;
  if (seconds === Infinity) return "> 10 s";
  if (seconds >= 1) return `${short(seconds)} s`;
  return seconds >= 0.001 || seconds === 0 ? `${short(seconds * 1e3)} ms` : `${short(seconds * 1e6)} µs`;
}

/** How long something lasts. @param {number|null} seconds */
export function duration(seconds) {
  if (seconds === null) return UNKNOWN;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** The time of day, as the reader's clock has it. @param {number} ms since the epoch */
export function clock(ms) {
  return new Date(ms).toLocaleTimeString("en-GB");
}

/**
 * Lines of an axis from 0 that hold `highest`: round numbers, evenly spaced.
 *
 * @param {number} highest
 * @param {number} [most]  lines above zero
 * @param {number} [base]  1,024 for bytes
 * @returns {number[]} from 0 to the top of the axis
 */
export function ticks(highest, most = 4, base = 1_000) {
  if (!(highest > 0) || !Number.isFinite(highest)) return [0, 1];
  let unit = 1;
  if (base === 1_024) while (unit * 1_024 <= highest) unit *= 1_024;
  const rough = highest / unit / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const factor = [1, 2, 2.5, 5, 10].find((each) => each * power >= rough * (1 - 1e-9));
  const step = factor * power * unit;
  const lines = Math.max(1, Math.ceil(highest / step - 1e-9));
  return Array.from({ length: lines + 1 }, (_, nth) => Number((nth * step).toPrecision(12)));
}

/**
 * Lines of a time axis: so many ms before now.
 *
 * @param {number} span ms
 */
export function timeTicks(span) {
  const minute = 60 * SECOND_MS;
  const step = [30 * SECOND_MS, minute, 2 * minute, 5 * minute].find((each) => span / each <= 5) ?? 10 * minute;
  return Array.from({ length: Math.floor(span / step) + 1 }, (_, nth) => nth * step);
}

/** @param {number} ms before now */
export function ago(ms) {
  if (ms === 0) return "now";
  return ms % 60_000 === 0 ? `−${ms / 60_000} min` : `−${ms / 1_000} s`;
}
