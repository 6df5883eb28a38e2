/** Whether this page was there to see what came: not while it was hidden, frozen, or the computer slept. */

/** The page looks each second; after so long without a look it was not running, in ms. */
const ABSENT_MS = 5_000;

export class Presence {
  /** How often the page has been away. */
  absences = 0;
  #seen = performance.now();
  #local = Date.now();

  /** Follows the document. @param {Document} document */
  watch(document) {
    for (const event of ["visibilitychange", "freeze", "resume"]) document.addEventListener(event, () => (this.absences += 1));
  }

  /** Notices an absence that has not been told of; called whenever something comes. @returns {number} `absences` */
  look() {
    const [seen, local] = [performance.now(), Date.now()];
    // Some systems stop the monotonic clock while they sleep, so the person's is looked at too. One that is put
    // right looks like an absence, which costs one interval of a rhythm.
    if (seen - this.#seen > ABSENT_MS || local - this.#local > ABSENT_MS) this.#back(seen, local);
    return this.absences;
  }

  /** Each second. */
  tick() {
    this.look();
    [this.#seen, this.#local] = [performance.now(), Date.now()];
  }

  #back(seen, local) {
    this.absences += 1;
    [this.#seen, this.#local] = [seen, local];
  }
}

/** That of this page. */
export const presence = new Presence();

/** Notices that the computer slept between two looks. A clock that was put right forward looks the same. */
export class Sleep {
  #ahead = Date.now() - performance.now();

  /** Whether there was one since the last time this was asked. */
  passed() {
    const before = this.#ahead;
    this.#ahead = Date.now() - performance.now();
    return this.#ahead - before > ABSENT_MS;
  }
}
