// How many answers may stream at once. A browser opens six HTTP/1.1 connections to a server for requests that
// may carry cookies, and six others for those that must not. There are no cookies here, so both kinds will do.
// One connection is left for short requests, and one for the live view.

const LANES = [
  { credentials: "same-origin", limit: 4 },
  { credentials: "omit", limit: 6 },
];

export const MAX_STREAMS = LANES.reduce((sum, lane) => sum + lane.limit, 0);

export class Lanes {
  #open = LANES.map(() => 0);
  #waiting = [];

  /** A place, as { credentials, leave }, as soon as one is free. Throws when `signal` aborts before that. */
  async take(signal) {
    for (;;) {
      signal.throwIfAborted();
      const index = LANES.findLastIndex((lane, i) => this.#open[i] < lane.limit);
      if (index >= 0) {
        this.#open[index] += 1;
        return { credentials: LANES[index].credentials, leave: () => this.#leave(index) };
      }
      await new Promise((resolve) => {
        this.#waiting.push(resolve);
        signal.addEventListener("abort", resolve, { once: true });
      });
    }
  }

  #leave(index) {
    this.#open[index] -= 1;
    // All of them look again: one may have been aborted meanwhile.
    for (const wake of this.#waiting.splice(0)) wake();
  }
}
