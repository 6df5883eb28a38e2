/** The symbol search: a dialog with a field and what `/udf/search` finds. */

import { parseTopic } from "./barcast.js";
import { askJson } from "./request.js";

/** As many as fit a long list; whoever wants more types more. */
const FOUND_MAX = 30;
/** A pause in typing that is worth a request. */
const DEBOUNCE_MS = 80;

export class Search {
  #dialog;
  #input;
  #list;
  #empty;
  #pick;
  #found = [];
  /** What `#found` was found for. */
  #query = null;
  #at = 0;
  #request = null;
  #timer;

  /**
   * @param {HTMLDialogElement} dialog
   * @param {(symbol: string) => void} pick  what to do with the symbol that was chosen
   */
  constructor(dialog, pick) {
    this.#dialog = dialog;
    this.#pick = pick;
    this.#input = dialog.querySelector("input");
    this.#list = dialog.querySelector("[role=listbox]");
    this.#empty = dialog.querySelector(".empty");
    this.#input.addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#search(), DEBOUNCE_MS);
    });
    this.#input.addEventListener("keydown", (event) => this.#key(event));
    this.#list.addEventListener("click", (event) => {
      const option = event.target.closest("[role=option]");
      if (option) this.#choose(option.dataset.symbol);
    });
    // A click beside the box ends it, as Escape does.
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  }

  open() {
    if (this.#dialog.open) return;
    this.#input.value = "";
    this.#dialog.showModal();
    this.#input.focus();
    this.#search();
  }

  async #search() {
    this.#request?.abort();
    const { signal } = (this.#request = new AbortController());
    const query = this.#input.value.trim();
    const url = `udf/search?${new URLSearchParams({ query, type: "", exchange: "", limit: String(FOUND_MAX) })}`;
    let found = [];
    let failure = null;
    try {
      found = await askJson(url, { signal });
    } catch (why) {
      failure = `The search failed: ${why.message}`;
    }
    if (signal.aborted) return;
    // Anybody may publish a symbol that is not there yet; the chart then waits for its first bar.
    const isNew = parseTopic(`bars:${query}:1`) && query !== "*" && !found.some(({ symbol }) => symbol === query);
    if (isNew) found.push({ symbol: query, description: failure ?? "No bars yet: wait for the first one" });
    this.#found = found;
    this.#query = query;
    this.#list.replaceChildren(...found.map((symbol, nth) => this.#option(symbol, nth)));
    this.#empty.textContent = failure ?? "No symbol matches.";
    this.#empty.hidden = found.length > 0;
    this.#input.setAttribute("aria-expanded", String(found.length > 0));
    this.#mark(0);
  }

  #option({ symbol, description, exchange, type }, nth) {
    const element = document.createElement("li");
    element.role = "option";
    element.id = `found-${nth}`;
    element.dataset.symbol = symbol;
    const text = (name, value) => {
      const span = document.createElement("span");
      span.className = name;
      span.textContent = value;
      element.append(span);
    };
    text("name", symbol);
    text("what", description === symbol ? "" : description);
    text("where", [exchange, type].filter(Boolean).join(" · "));
    return element;
  }

  #mark(at) {
    this.#at = Math.min(this.#found.length - 1, Math.max(0, at));
    [...this.#list.children].forEach((option, nth) => option.setAttribute("aria-selected", String(nth === this.#at)));
    const option = this.#list.children[this.#at];
    if (option) this.#input.setAttribute("aria-activedescendant", option.id);
    else this.#input.removeAttribute("aria-activedescendant");
    option?.scrollIntoView({ block: "nearest" });
  }

  #key(event) {
    if (event.key === "ArrowDown") this.#mark(this.#at + 1);
    else if (event.key === "ArrowUp") this.#mark(this.#at - 1);
    else if (event.key === "Enter") this.#enter();
    // A browser's own meaning of it would only empty the field.
    else if (event.key === "Escape") this.#dialog.close();
    else return;
    event.preventDefault();
  }

  /** Whoever types fast and presses Enter means what was typed, not what was found for less. */
  async #enter() {
    clearTimeout(this.#timer);
    if (this.#query !== this.#input.value.trim()) await this.#search();
    const found = this.#found[this.#at];
    if (found) this.#choose(found.symbol);
  }

  #choose(symbol) {
    this.#dialog.close();
    this.#pick(symbol);
  }
}
