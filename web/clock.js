/**
 * The gateway's time on a clock that does not jump. No DOM.
 *
 * A person's clock may be wrong, or be put right at any moment. Spans are therefore taken from the browser's
 * monotonic clock, and ages from the gateway's time: each of its answers carries a `Date`.
 */

/** A `Date` is cut off to whole seconds. */
const DATE_STEP_MS = 1_000;
/** How far two clocks drift apart in one ms at most: NTP corrects no faster. */
const DRIFT = 0.0005;
/** The person's clock and the monotonic one differ by so much more than before: one was put right, or one slept. */
const JUMP_MS = 1_000;
/** Known so well, the gateway's time needs no more requests, in ms: less than a person sees. */
const SHARP_MS = 60;
/** Requests for one sharpening: each halves the doubt, which is half a second at first. */
const SHARPENINGS = 6;

export class GatewayClock {
  #monotonic;
  #local;
  /** Between what the gateway's time is ahead of the monotonic clock, in ms; nothing is known at first. */
  #low = -Infinity;
  #high = Infinity;
  #offset = null;
  #takenAt = 0;
  #localOffset = 0;
  /** The shortest round trip: better than that nothing can be known. */
  #trip = Infinity;

  constructor({ monotonic = () => performance.now(), local = () => Date.now() } = {}) {
    this.#monotonic = monotonic;
    this.#local = local;
  }

  /** The gateway's time in ms since the epoch; before its first answer the person's. */
  now() {
    return this.#monotonic() + this.offset;
  }

  /** What the gateway's time is ahead of the monotonic clock, in ms. */
  get offset() {
    return this.#offset ?? this.#local() - this.#monotonic();
  }

  /** How far off `now()` may be, in ms; infinite before the first answer. */
  get doubt() {
    return (this.#high - this.#low) / 2;
  }

  /** Whether it is known as well as can be, or the person's clock agrees with what is known. */
  get isSharp() {
    return this.#offset !== null && (this.#offset === this.#localOffset || this.#isNarrow);
  }

  /** How far off a figure may be that is taken from `offset`, in ms; a person's clock that agrees is believed. */
  get error() {
    return this.#offset === this.#localOffset ? 0 : this.doubt;
  }

  get #isNarrow() {
    return this.doubt <= Math.max(SHARP_MS, this.#trip);
  }

  /** Whether the person's clock was put right, or the computer slept, since the gateway's time was taken last. */
  get isDoubtful() {
    return Math.abs(this.#local() - this.#monotonic() - this.#localOffset) > JUMP_MS;
  }

  /**
   * Takes the time of an answer. Every one narrows what the gateway's time can be; one that contradicts the
   * earlier ones (another gateway, a computer that slept) counts alone.
   *
   * @param {string|null} date  the answer's `Date`
   * @param {number} sent       when the request went out, on the monotonic clock
   * @param {number} received   when the head of the answer was there
   */
  take(date, sent, received) {
    const second = Date.parse(date ?? "");
    if (Number.isNaN(second)) return;
    const [low, high] = [second - received, second + DATE_STEP_MS - sent];
    const drift = Math.max(0, received - this.#takenAt) * DRIFT;
    const [narrowLow, narrowHigh] = [Math.max(low, this.#low - drift), Math.min(high, this.#high + drift)];
    const agrees = !this.isDoubtful && narrowLow <= narrowHigh;
    [this.#low, this.#high] = agrees ? [narrowLow, narrowHigh] : [low, high];
    this.#takenAt = received;
    this.#trip = Math.min(received - sent, agrees ? this.#trip : Infinity);
    this.#localOffset = this.#local() - this.#monotonic();
    // A person's clock that agrees is more exact than the middle.
    const isRight = this.#localOffset >= this.#low && this.#localOffset <= this.#high;
    this.#offset = isRight ? this.#localOffset : (this.#low + this.#high) / 2;
  }

  /**
   * Asks until the gateway's time is known well: each request is sent so that it arrives when the gateway's
   * second may change, and so halves the doubt.
   *
   * @param {() => Promise<unknown>} ask  one small request whose answer is taken
   * @param {(ms: number) => Promise<unknown>} pause
   */
  async sharpen(ask, pause) {
    for (let nth = 0; nth < SHARPENINGS && (this.isDoubtful || !this.#isNarrow); nth += 1) {
      if (Number.isFinite(this.doubt)) {
        const arrives = this.now() + this.#trip / 2;
        await pause(DATE_STEP_MS - (arrives % DATE_STEP_MS));
      }
      await ask();
    }
  }
}

/** The clock of this page. */
export const clock = new GatewayClock();
