/** One plot over the last minutes, as SVG: sharp at any size, and its colours follow the theme by themselves. */

import { UNKNOWN, ago, clock, ticks, timeTicks } from "./units.js";

const SVG = "http://www.w3.org/2000/svg";
/** Room for the axes, in px. */
const ROOM = { left: 62, right: 12, top: 10, bottom: 22 };
const HEIGHT = 168;
/** A plot that is not laid out yet. */
const LEAST_WIDTH = 160;
/** Arrow keys move by one look; with Shift by so many. */
const LEAP = 10;

/**
 * @typedef {{name: string, label: string, colour: number}} Line  `name` in the points' values; `colour` 1 to 8
 */

function make(name, attributes = {}, parent = null) {
  const element = document.createElementNS(SVG, name);
  for (const [key, text] of Object.entries(attributes)) element.setAttribute(key, text);
  parent?.append(element);
  return element;
}

function html(name, className, text = "") {
  const element = document.createElement(name);
  element.className = className;
  element.textContent = text;
  return element;
}

export class Plot {
  #figure;
  #frame;
  #legend;
  #none;
  #svg;
  #options;
  #lines;
  #points = [];
  #span = 0;
  #end = 0;
  #epoch = 0;
  /** @type {number|null} the moment that is read out; `null` reads the newest */
  #read = null;
  #drawn = null;

  /**
   * @param {HTMLElement} parent
   * @param {{title: string, hint: string, lines: Line[], write: (value: number|null) => string, mark?: (value: number) => string, base?: number, least?: number, none?: string}} options
   *   `write` gives a value its unit, `mark` on the axis; `base` is 1,024 for bytes; `least` is the smallest top of the axis;
   *   `none` says why nothing is drawn
   */
  constructor(parent, options) {
    this.#options = options;
    this.#lines = options.lines;
    this.#figure = html("figure", "plot");
    const caption = html("figcaption", "plot-title", options.title);
    caption.title = options.hint;
    this.#legend = html("dl", "plot-legend");
    this.#frame = html("div", "plot-frame");
    this.#none = html("p", "plot-none");
    this.#svg = make("svg", { class: "plot-svg", height: HEIGHT, role: "slider", tabindex: "0", "aria-orientation": "horizontal", "aria-label": `${options.title}: arrow keys read earlier values` });
    this.#frame.append(this.#svg, this.#none);
    this.#figure.append(caption, this.#legend, this.#frame);
    parent.append(this.#figure);
    this.#svg.addEventListener("pointermove", (event) => this.#point(event.offsetX));
    this.#svg.addEventListener("pointerdown", (event) => this.#point(event.offsetX));
    this.#svg.addEventListener("pointerleave", () => this.#look(null));
    this.#svg.addEventListener("blur", () => this.#look(null));
    this.#svg.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.#draw()).observe(this.#frame);
  }

  /** @param {Line[]} lines  where they are not known from the start */
  set lines(lines) {
    this.#lines = lines;
  }

  /**
   * @param {import("./recorder.js").Point[]} points oldest first
   * @param {{span: number, end: number, epoch: number}} time  ms shown, the newest moment on the points' clock,
   *   and the same moment in ms since the epoch
   */
  show(points, { span, end, epoch }) {
    // One more than is shown, so that lines come in from the edge.
    const first = points.findLastIndex((point) => point.at < end - span);
    this.#points = points.slice(Math.max(first, 0));
    this.#span = span;
    this.#end = end;
    this.#epoch = epoch;
    this.#draw();
  }

  #draw() {
    if (this.#span === 0) return;
    const width = Math.max(Math.floor(this.#frame.clientWidth), LEAST_WIDTH);
    const known = this.#points.some((point) => this.#lines.some(({ name }) => Number.isFinite(point.values[name] ?? NaN)));
    this.#svg.toggleAttribute("data-empty", !known);
    this.#none.hidden = known;
    this.#none.textContent = known ? "" : (this.#options.none ?? "No data yet");
    const inner = { left: ROOM.left, right: width - ROOM.right, top: ROOM.top, bottom: HEIGHT - ROOM.bottom };
    const marks = ticks(Math.max(this.#highest(), this.#options.least ?? 0), 4, this.#options.base);
    const top = marks.at(-1);
    const x = (at) => inner.right - ((this.#end - at) / this.#span) * (inner.right - inner.left);
    const y = (value) => inner.bottom - (Math.min(value, top) / top) * (inner.bottom - inner.top);
    this.#drawn = { inner, x, y };

    const svg = make("g");
    this.#svg.setAttribute("width", width);
    this.#svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    if (known) for (const mark of marks) this.#rule(svg, inner, y(mark), (this.#options.mark ?? this.#options.write)(mark));
    for (const before of timeTicks(this.#span)) this.#moment(svg, inner, x(this.#end - before), before);
    for (const line of this.#lines) {
      const shape = this.#path(line.name, x, y, inner.left);
      if (shape) make("path", { d: shape, class: `line c${line.colour}`, "data-line": line.name }, svg);
    }
    make("g", { class: "reading" }, svg);
    this.#svg.replaceChildren(svg);
    this.#readOut();
  }

  #highest() {
    const values = this.#points.flatMap((point) => this.#lines.map(({ name }) => point.values[name] ?? 0));
    return Math.max(0, ...values.filter(Number.isFinite));
  }

  #rule(svg, inner, y, text) {
    // Half a pixel off, so that a line of one pixel is one pixel.
    const at = Math.round(y) + 0.5;
    make("line", { x1: inner.left, x2: inner.right, y1: at, y2: at, class: "rule" }, svg);
    make("text", { x: inner.left - 8, y: at + 4, class: "mark", "text-anchor": "end" }, svg).textContent = text;
  }

  #moment(svg, inner, x, before) {
    const at = Math.round(x) + 0.5;
    make("line", { x1: at, x2: at, y1: inner.bottom, y2: inner.bottom + 4, class: "rule" }, svg);
    const anchor = before === 0 ? "end" : "middle";
    make("text", { x: at, y: inner.bottom + 17, class: "mark", "text-anchor": anchor }, svg).textContent = ago(before);
  }

  /** Broken where a value is not known; a value without neighbours is a dot. */
  #path(name, x, y, left) {
    let shape = "";
    let pen = false;
    this.#points.forEach((point, nth) => {
      const value = point.values[name] ?? null;
      if (value === null) {
        pen = false;
        return;
      }
      const alone = !pen && (this.#points[nth + 1]?.values[name] ?? null) === null;
      const spot = `${Math.max(x(point.at), left).toFixed(1)} ${y(value).toFixed(1)}`;
      shape += alone ? `M${spot}h0.01` : `${pen ? "L" : "M"}${spot}`;
      pen = true;
    });
    return shape;
  }

  #key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -LEAP, PageDown: LEAP }[event.key];
    if (event.key === "Escape" || event.key === "End") this.#look(null);
    else if (event.key === "Home") this.#look(this.#points[0]?.at ?? null);
    else if (step) {
      const at = this.#index() + step * (event.shiftKey ? LEAP : 1);
      this.#look(at >= this.#points.length - 1 ? null : this.#points[Math.max(at, 0)].at);
    } else return;
    event.preventDefault();
  }

  #point(offset) {
    if (!this.#drawn) return;
    const { inner } = this.#drawn;
    const at = this.#end - ((inner.right - offset) / (inner.right - inner.left)) * this.#span;
    this.#look(Math.min(at, this.#end));
  }

  #look(at) {
    this.#read = at;
    this.#readOut();
  }

  /** Which point is read. */
  #index() {
    if (this.#read === null || this.#points.length === 0) return this.#points.length - 1;
    const distance = (point) => Math.abs(point.at - this.#read);
    return this.#points.reduce((best, point, nth) => (distance(point) < distance(this.#points[best]) ? nth : best), 0);
  }

  #readOut() {
    const at = this.#index();
    const point = this.#points[at];
    const when = point ? clock(this.#epoch - (this.#end - point.at)) : UNKNOWN;
    const told = this.#lines.map((line) => ({ ...line, text: this.#options.write(point?.values[line.name] ?? null) }));
    const entries = told.map(({ label, colour, text }) => {
      const entry = html("div", `c${colour}`);
      entry.append(html("dt", "", label), html("dd", "", text));
      return entry;
    });
    if (this.#read !== null) {
      const entry = html("div", "when");
      entry.append(html("dt", "hidden", "Time"), html("dd", "", when));
      entries.unshift(entry);
    }
    this.#legend.replaceChildren(...entries);
    this.#svg.setAttribute("aria-valuemin", "0");
    this.#svg.setAttribute("aria-valuemax", String(Math.max(this.#points.length - 1, 0)));
    this.#svg.setAttribute("aria-valuenow", String(Math.max(at, 0)));
    this.#svg.setAttribute("aria-valuetext", `${when}: ${told.map(({ label, text }) => `${label} ${text}`).join(", ")}`);
    this.#cursor(point);
  }

  #cursor(point) {
    const group = this.#svg.querySelector(".reading");
    if (!group) return;
    group.replaceChildren();
    if (this.#read === null || !point) return;
    const { inner, x, y } = this.#drawn;
    const at = Math.max(Math.round(x(point.at)), inner.left) + 0.5;
    make("line", { x1: at, x2: at, y1: inner.top, y2: inner.bottom, class: "cursor" }, group);
    for (const { name, colour } of this.#lines) {
      const value = point.values[name] ?? null;
      if (Number.isFinite(value ?? NaN)) make("circle", { cx: at, cy: y(value), r: 3.5, class: `spot c${colour}` }, group);
    }
  }
}
