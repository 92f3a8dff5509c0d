// The last seconds of the engine, step by step: how long each took, which prompts and decodes it carried.

import { Canvas, count, duration, roundUp } from "./canvas.js";
import { element } from "./dialogs.js";

const WINDOW_S = 10;
const BEHIND_S = 0.35; // views come four times a second: drawn a little late, the picture moves without jumps
const MAX_KEPT = 6000;
const HEAD_PX = 15;
const GAP_PX = 8;
const LANES = [
  { name: "Duration", unit: "ms", of: (step) => step.ms, colour: "shared" },
  { name: "Prompt tokens", unit: "", of: (step) => step.prefillTokens, colour: "kept" },
  { name: "Decode rows", unit: "", of: (step) => step.decodeRows, colour: "held" },
];

export class Steps {
  #steps = [];
  #ahead = -Infinity; // the engine's clock minus the page's
  #colours = {};
  #frame = 0;
  #underWay = null; // when the step began that has not ended
  #still = matchMedia("(prefers-reduced-motion: reduce)");
  #pointer = null;

  constructor() {
    this.canvas = new Canvas(element("steps"), (context, width, height) => this.#draw(context, width, height));
    const canvas = this.canvas.element;
    canvas.addEventListener("pointermove", (event) => { this.#pointer = event.offsetX; this.canvas.paint(); });
    canvas.addEventListener("pointerleave", () => { this.#pointer = null; });
  }

  show(view, colours) {
    this.#colours = colours;
    const clock = view.now_s - performance.now() / 1000;
    // The view that came fastest tells best; clocks do not drift within minutes, but machines sleep.
    this.#ahead = Math.abs(clock - this.#ahead) > 1 ? clock : Math.max(this.#ahead, clock);
    for (const [number, begin, end, decodeRows, prefillTokens, prefillRows] of view.steps) {
      if (number <= (this.#steps.at(-1)?.number ?? -1)) continue;
      this.#steps.push({ number, begin, end, ms: (end - begin) * 1000, decodeRows, prefillTokens, prefillRows });
    }
    this.#underWay = view.step_age_s > 0 ? Math.max(view.now_s - view.step_age_s, this.#steps.at(-1)?.end ?? 0) : null;
    const oldest = view.now_s - WINDOW_S - 2;
    const first = this.#steps.findIndex((step) => step.end > oldest);
    this.#steps.splice(0, Math.max(first < 0 ? this.#steps.length : first, this.#steps.length - MAX_KEPT));
    this.#describe();
    if (this.#still.matches) this.canvas.paint();
    else this.#frame ||= requestAnimationFrame(() => this.#animate());
  }

  /** Nobody looks any more. */
  pause() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
  }

  /** Another server, or the same one started again: its clock and numbers are others. */
  forget() {
    this.#steps = [];
    this.#ahead = -Infinity;
  }

  /** At half of the usual rate: this machine may be the one that computes the answers. */
  #animate(odd = false) {
    if (odd) this.canvas.paint();
    this.#frame = requestAnimationFrame(() => this.#animate(!odd));
  }

  #describe() {
    const times = this.#steps.map((step) => step.ms / 1000).sort((a, b) => a - b);
    const at = (share) => times[Math.min(times.length - 1, Math.floor(times.length * share))];
    const words = times.length
      ? `${count(times.length)} steps in ${WINDOW_S} s: half within ${duration(at(0.5))}, 99 of 100 within ${duration(at(0.99))}`
      : `no steps in the last ${WINDOW_S} s`;
    element("steps-read").textContent = words;
    element("steps").ariaLabel = `Steps of the engine: ${words}.`;
  }

  #draw(context, width, height) {
    const now = performance.now() / 1000 + this.#ahead - BEHIND_S;
    const left = now - WINDOW_S;
    const scale = width / WINDOW_S;
    const lane = (height - 14) / LANES.length;
    const shown = this.#steps.filter((step) => step.end > left && step.begin < now);
    this.#axis(context, width, height, now);
    LANES.forEach(({ name, unit, of, colour }, i) => {
      const top = i * lane + HEAD_PX;
      const room = lane - HEAD_PX - GAP_PX;
      const most = roundUp(Math.max(...shown.map(of), 1));
      context.fillStyle = this.#colours.muted;
      context.textAlign = "left";
      context.fillText(name, 0, top - 4);
      context.textAlign = "right";
      context.fillText(`${count(most)}${unit && ` ${unit}`}`, width, top - 4);
      context.fillStyle = this.#colours.line;
      context.fillRect(0, top + room, width, 1);
      context.fillStyle = this.#colours[colour];
      for (const step of shown) {
        const value = of(step);
        if (!value) continue;
        const x = (step.begin - left) * scale;
        const wide = (step.end - step.begin) * scale;
        const tall = Math.max(1, (value / most) * room);
        context.fillRect(x, top + room - tall, Math.max(0.75, wide > 3 ? wide - 1 : wide), tall);
      }
    });
    this.#drawUnderWay(context, width, lane, now, scale);
    this.#point(context, height, shown, left, scale);
  }

  /** Nobody knows yet how long it will take: it grows, as an outline in the first lane. */
  #drawUnderWay(context, width, lane, now, scale) {
    const age = this.#underWay === null ? 0 : now - this.#underWay;
    if (age * scale < 3) return;
    context.strokeStyle = this.#colours.shared;
    context.setLineDash([3, 3]);
    context.strokeRect(width - age * scale + 0.5, HEAD_PX + 0.5, age * scale - 1, lane - HEAD_PX - GAP_PX);
    context.setLineDash([]);
  }

  #axis(context, width, height, now) {
    context.fillStyle = this.#colours.muted;
    for (let ago = 0; ago < WINDOW_S; ago += 2) {
      const x = width - (ago / WINDOW_S) * width;
      context.textAlign = ago ? "center" : "right";
      context.fillText(ago ? `−${ago} s` : "now", x, height - 2);
    }
  }

  #point(context, height, shown, left, scale) {
    const detail = element("steps-detail");
    const time = this.#pointer === null ? null : left + this.#pointer / scale;
    const step = time === null ? null : shown.find((each) => each.begin <= time && time < each.end);
    if (time !== null) {
      context.fillStyle = this.#colours.edge;
      context.fillRect(this.#pointer, 0, 1, height - 14);
    }
    if (!step) {
      detail.textContent = time === null ? "Point at a step to read it." : "No step ran here.";
      return;
    }
    const chunks = step.prefillRows === 1 ? "1 chunk" : `${step.prefillRows} chunks`;
    const prompts = step.prefillTokens ? `, ${count(step.prefillTokens)} prompt tokens in ${chunks}` : "";
    const rows = step.decodeRows === 1 ? "1 decode row" : `${count(step.decodeRows)} decode rows`;
    detail.textContent = `Step ${count(step.number)}: ${duration(step.ms / 1000)}, ${rows}${prompts}.`;
  }
}
