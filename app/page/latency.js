// Percentiles of the last minute, from counts per bucket that only ever grow; of all since the start, in grey,
// where the last minute brought nothing.

import { Canvas, duration } from "./canvas.js";
import { element } from "./dialogs.js";

const WINDOW_S = 60;
const SHOWN = {
  time_to_first_token_seconds: "First token",
  inter_token_latency_seconds: "Between tokens",
  request_queue_time_seconds: "In the queue",
  e2e_request_latency_seconds: "Whole answer",
};
const SHARES = [0.5, 0.9, 0.99];

export class Latency {
  #seen = []; // { at, latencies }, oldest first
  #rows = new Map();
  #colours = {};

  constructor() {
    for (const [name, label] of Object.entries(SHOWN)) {
      const row = document.createElement("tr");
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = label;
      const spread = document.createElement("td");
      spread.className = "spread";
      const canvas = document.createElement("canvas");
      canvas.role = "img";
      canvas.ariaLabel = `${label}: distribution`;
      spread.append(canvas);
      const cells = SHARES.map(() => document.createElement("td"));
      row.append(head, spread, ...cells);
      element("latency-rows").append(row);
      const state = { element: row, cells, counts: [], bounds: [] };
      state.canvas = new Canvas(canvas, (context, width, height) => this.#draw(context, width, height, state));
      this.#rows.set(name, state);
    }
  }

  forget() {
    this.#seen = [];
  }

  show(latencies, at, colours) {
    this.#colours = colours;
    const last = this.#seen.at(-1);
    if (!last || at - last.at > 0.9) this.#seen.push({ at, latencies });
    while (this.#seen.length > 1 && this.#seen[1].at < at - WINDOW_S) this.#seen.shift();
    let total = 0;
    for (const [name, row] of this.#rows) {
      const { bounds, counts } = latencies[name];
      const before = this.#seen[0].latencies[name].counts;
      const recent = counts.map((value, i) => value - before[i]);
      const old = !recent.some(Boolean);
      row.bounds = bounds;
      row.counts = old ? counts : recent;
      row.element.classList.toggle("old", old);
      if (name === "time_to_first_token_seconds") total = sum(recent);
      SHARES.forEach((share, i) => { row.cells[i].textContent = duration(percentile(row, share)); });
      row.canvas.paint();
    }
    const span = Math.min(WINDOW_S, Math.round(at - this.#seen[0].at));
    const window = span < WINDOW_S ? `${span} s` : "minute";
    element("latency-read").textContent = total ? `last ${window}, ${total} begun; grey: since the start` : "since the server's start";
  }

  #draw(context, width, height, { counts, bounds }) {
    const most = Math.max(...counts, 1);
    const step = width / (bounds.length + 1);
    context.fillStyle = this.#colours.line;
    context.fillRect(0, height - 1, width, 1);
    context.fillStyle = this.#colours.held;
    counts.forEach((value, i) => {
      if (!value) return;
      const tall = Math.max(2, (value / most) * (height - 2));
      context.fillRect(i * step, height - 1 - tall, step - 1.5, tall);
    });
  }
}

const sum = (values) => values.reduce((a, b) => a + b, 0);

/** Within its bucket, a value is taken to lie where its rank does. Null if there are none. */
export function percentile({ counts, bounds }, share) {
  const total = sum(counts);
  if (!total) return null;
  let rank = share * total;
  for (const [i, value] of counts.entries()) {
    if (value && rank <= value) {
      const low = i ? bounds[i - 1] : 0;
      return i < bounds.length ? low + (bounds[i] - low) * (rank / value) : low;
    }
    rank -= value;
  }
  return bounds.at(-1);
}
