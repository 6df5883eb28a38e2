/** How figures, times and resolutions are written. No DOM, so that it can be tested. */

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** More digits than any market quotes; guards against 0.1 + 0.2. */
const DECIMALS_MAX = 8;
/** A double holds 15 to 17; a price in its noise must not get its last digits. */
const SIGNIFICANT_MAX = 10;
/** Bars looked at to find how many decimals a market has. */
const PRECISION_SAMPLE = 100;
/** A topic whose rhythm is not known yet counts as stale after so long. */
const STALE_UNKNOWN_MS = 30 * SECOND;
/** However fast a topic is, a shorter silence is no news. */
const STALE_MIN_MS = 10 * SECOND;
/** Silence of so many usual intervals is more than bad luck. */
const STALE_INTERVALS = 5;

/**
 * The length of a resolution in ms; a month counts as 30 days.
 *
 * @param {string} resolution `5S`, `15`, `D`
 */
export function lengthOf(resolution) {
  const count = Number.parseInt(resolution, 10) || 1;
  switch (resolution.at(-1)) {
    case "S": return count * SECOND;
    case "D": return count * DAY;
    case "W": return count * 7 * DAY;
    case "M": return count * 30 * DAY;
    default: return count * MINUTE;
  }
}

/**
 * @param {string} resolution
 * @returns {{short: string, long: string}} `5m` and `5 minutes`
 */
export function labelOf(resolution) {
  const length = lengthOf(resolution);
  const unit = resolution.at(-1);
  const write = (n, letter, word) => ({ short: `${n}${letter}`, long: `${n} ${word}${n === 1 ? "" : "s"}` });
  if (unit === "M") return write(Math.round(length / (30 * DAY)), "M", "month");
  if (unit === "W") return write(length / (7 * DAY), "W", "week");
  if (unit === "D") return write(length / DAY, "D", "day");
  if (unit === "S") return write(length / SECOND, "s", "second");
  return length % HOUR === 0 ? write(length / HOUR, "h", "hour") : write(length / MINUTE, "m", "minute");
}

/**
 * How many decimals the prices of a market have: the most that any of its recent prices needs, at least two.
 *
 * @param {import("./barcast.js").Bar[]} bars
 */
export function decimalsOf(bars) {
  let decimals = 2;
  for (const { open, high, low, close } of bars.slice(-PRECISION_SAMPLE)) {
    if (open === null) continue;
    for (const price of [open, high, low, close]) {
      if (price === null) continue;
      const clean = Number(price.toPrecision(SIGNIFICANT_MAX)).toFixed(DECIMALS_MAX);
      decimals = Math.max(decimals, DECIMALS_MAX - /0*$/.exec(clean)[0].length);
    }
  }
  return Math.min(decimals, DECIMALS_MAX);
}

const formats = new Map();

/** @param {number|null} value null where nothing was traded @param {number} decimals */
export function price(value, decimals) {
  if (value === null) return "–";
  let format = formats.get(decimals);
  if (!format) {
    format = new Intl.NumberFormat("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
    formats.set(decimals, format);
  }
  return format.format(value);
}

const compact = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 2 });

/** @param {number} value */
export function volume(value) {
  return compact.format(value);
}

/**
 * @param {number} from
 * @param {number} to
 * @returns {{direction: "up"|"down"|"flat", percent: string}}
 */
export function change(from, to) {
  const percent = from === 0 ? 0 : ((to - from) / Math.abs(from)) * 100;
  const text = Math.abs(percent).toFixed(2);
  if (Number(text) === 0) return { direction: "flat", percent: "0.00%" };
  return percent > 0 ? { direction: "up", percent: `+${text}%` } : { direction: "down", percent: `−${text}%` };
}

/**
 * The time of a bar in UTC, as fine as its resolution.
 *
 * @param {number} time ms since the epoch
 * @param {string} resolution
 */
export function barTime(time, resolution) {
  const iso = new Date(time).toISOString();
  const length = lengthOf(resolution);
  if (length >= DAY) return iso.slice(0, 10);
  return `${iso.slice(0, 10)} ${iso.slice(11, length < MINUTE ? 19 : 16)}`;
}

/** @param {number} ms @returns {string} `0:07`, `59:59`, `23:00:00` */
export function countdown(ms) {
  const total = Math.max(0, Math.ceil(ms / SECOND));
  const two = (n) => String(n).padStart(2, "0");
  const minutes = Math.floor(total / 60) % 60;
  const hours = Math.floor(total / 3600);
  return hours > 0 ? `${hours}:${two(minutes)}:${two(total % 60)}` : `${minutes}:${two(total % 60)}`;
}

/** @param {number} ms @returns {string} `34 s`, `5 min`, `2 h`, `3 d` */
export function age(ms) {
  if (ms < MINUTE) return `${Math.floor(ms / SECOND)} s`;
  if (ms < HOUR) return `${Math.floor(ms / MINUTE)} min`;
  if (ms < 2 * DAY) return `${Math.floor(ms / HOUR)} h`;
  return `${Math.floor(ms / DAY)} d`;
}

/** @param {number} ms @returns {string} */
export function milliseconds(ms) {
  if (ms < 1) return "< 1 ms";
  return ms < 10_000 ? `${Math.round(ms)} ms` : age(ms);
}

/**
 * After how much silence a topic is stale.
 *
 * @param {number|null} interval usual ms between its updates, null when not known
 */
export function staleAfter(interval) {
  return interval === null ? STALE_UNKNOWN_MS : Math.max(STALE_MIN_MS, STALE_INTERVALS * interval);
}

/**
 * Why what is shown is old, in words; empty while it is not.
 *
 * @param {object} flow             spans in ms
 * @param {number} flow.silence     since the last update, or since updates are waited for
 * @param {number|null} flow.interval  usual time between updates, null when not known
 * @param {number|null} flow.overdue   since the newest bar's interval ended, by the gateway's time; null without a bar
 */
export function staleness({ silence, interval, overdue }) {
  // A newest bar that has long ended is old however recently somebody sent it.
  if (overdue !== null && overdue > Math.max(STALE_UNKNOWN_MS, staleAfter(interval))) return `Last bar ended ${age(overdue)} ago`;
  return silence > staleAfter(interval) ? `No update for ${age(silence)}` : "";
}

/** @param {number} bars that a resume brought */
export function filled(bars) {
  if (bars === 0) return "Resumed: nothing was missed";
  return `Resumed: ${bars.toLocaleString("en-US")} ${bars === 1 ? "bar" : "bars"} filled`;
}

/** @param {number[]} values @returns {number} */
export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1];
}
