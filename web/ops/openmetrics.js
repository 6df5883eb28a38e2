/** OpenMetrics text, as `/metrics` gives it, into figures. No DOM, so that it can be tested. */

/**
 * @typedef {{name: string, labels: Record<string, string>, value: number}} Sample
 * @typedef {Map<string, Sample[]>} Figures  samples by their whole name, such as `barcast_lag_seconds_bucket`
 */

const NAME = /[A-Za-z_:][A-Za-z0-9_:]*/y;
const LABEL = /([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"/y;
const ESCAPES = { n: "\n", '"': '"', "\\": "\\" };

/**
 * @param {string} text
 * @returns {Figures}
 * @throws {Error} with the line that is none, or when the end is missing
 */
export function parse(text) {
  const figures = new Map();
  const lines = text.split("\n");
  // Without it the answer was cut off somewhere, perhaps within a number.
  if (!lines.includes("# EOF")) throw new Error("the answer has no # EOF");
  for (const line of lines) {
    if (line === "" || line.startsWith("#")) continue;
    const sample = parseSample(line);
    const samples = figures.get(sample.name);
    if (samples) samples.push(sample);
    else figures.set(sample.name, [sample]);
  }
  return figures;
}

/** @param {string} line @returns {Sample} */
function parseSample(line) {
  const fail = () => {
    throw new Error(`not a sample: ${line.slice(0, 120)}`);
  };
  NAME.lastIndex = 0;
  const name = NAME.exec(line)?.[0] ?? fail();
  let at = NAME.lastIndex;
  const labels = {};
  if (line[at] === "{") {
    at += 1;
    while (line[at] !== "}") {
      LABEL.lastIndex = at;
      const [, key, value] = LABEL.exec(line) ?? fail();
      labels[key] = value.replace(/\\(.)/g, (_, escaped) => ESCAPES[escaped] ?? escaped);
      at = LABEL.lastIndex;
      if (line[at] === ",") at += 1;
    }
    at += 1;
  }
  const words = line.slice(at).trim().split(" ");
  const value = parseNumber(words[0]);
  if (line[at] !== " " || Number.isNaN(value)) fail();
  return { name, labels, value };
}

/** @param {string} text */
function parseNumber(text) {
  if (text === "+Inf") return Infinity;
  if (text === "-Inf") return -Infinity;
  return text === "" ? NaN : Number(text);
}

/**
 * One figure; `null` when there is none.
 *
 * @param {Figures} figures
 * @param {string} name
 * @param {Record<string, string>} [labels]  that it must have
 * @returns {number|null}
 */
export function value(figures, name, labels = {}) {
  const wanted = Object.entries(labels);
  const sample = figures.get(name)?.find((each) => wanted.every(([key, text]) => each.labels[key] === text));
  return sample?.value ?? null;
}

/**
 * The figures of a family by one label, in the order in which they are told.
 *
 * @param {Figures} figures
 * @param {string} name
 * @param {string} label
 * @returns {Map<string, number>}
 */
export function byLabel(figures, name, label) {
  const found = new Map();
  for (const { labels, value } of figures.get(name) ?? []) {
    if (label in labels) found.set(labels[label], (found.get(labels[label]) ?? 0) + value);
  }
  return found;
}
