/** What a person sees of the connection: the mark above, and a notice while it is lost and when it is back. */

import { filled } from "./format.js";

/** Long enough to be read, short enough not to be in the way. */
const RESUMED_SHOWN_MS = 8_000;
const WORDS = { connecting: "Connecting", open: "Live", waiting: "Reconnecting", closed: "Closed" };

export class Connection {
  #parts;
  #state = { name: "connecting", attempt: 0 };
  /** Whether the connection was there before: without a first one there is nothing to resume. */
  #wasOpen = false;
  #wasLost = false;
  #filled = 0;
  /** On the monotonic clock, as `#retryAt`: what a person's clock says may jump. */
  #until = 0;
  #retryAt = 0;

  /** @param {{mark: HTMLElement, word: HTMLElement, notice: HTMLElement, text: HTMLElement, count: HTMLElement, retry: HTMLElement}} parts */
  constructor(parts) {
    this.#parts = parts;
  }

  /** @param {import("./barcast.js").State} state */
  state(state) {
    this.#state = state;
    if (state.name === "waiting") this.#retryAt = performance.now() + state.retryAt - Date.now();
    if (state.name === "open") {
      if (this.#wasLost) this.#until = Infinity;
      this.#wasOpen = true;
      this.#wasLost = false;
    } else if (this.#wasOpen && !this.#wasLost) {
      this.#wasLost = true;
      this.#filled = 0;
      this.#until = 0;
    }
    this.draw();
  }

  /** So many bars came that a chart had missed. */
  filled(bars) {
    this.#filled += bars;
    this.#until = performance.now() + RESUMED_SHOWN_MS;
    this.draw();
  }

  get isOpen() {
    return this.#state.name === "open";
  }

  draw() {
    const { name, attempt } = this.#state;
    // An attempt after a loss is part of the same trouble for whoever looks.
    const shown = name === "connecting" && attempt > 0 ? "waiting" : name;
    const { mark, word, notice, text, count, retry } = this.#parts;
    mark.dataset.state = shown;
    write(word, WORDS[shown]);
    const resumed = name === "open" && performance.now() < this.#until;
    notice.hidden = !(shown === "waiting" || resumed);
    notice.dataset.state = shown;
    // The seconds are not read out each time: the words beside them are, once.
    write(text, shown === "waiting" ? "Connection lost. Reconnecting" : !resumed ? "" : this.#until === Infinity ? "Connected again. Resuming" : filled(this.#filled));
    write(count, name === "waiting" ? `in ${Math.max(1, Math.ceil((this.#retryAt - performance.now()) / 1000))} s` : "");
    retry.hidden = name !== "waiting";
  }
}

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
