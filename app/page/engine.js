// The live view: watches the engine while it is shown, and only then, and hands what it sees to its pictures.

import { count, palette } from "./canvas.js";
import { element } from "./dialogs.js";
import { Latency } from "./latency.js";
import { Lines } from "./lines.js";
import { Pool } from "./pool.js";
import { call, events, parse } from "./server.js";
import { Steps } from "./steps.js";

const RATE_OVER_S = 2.5;
const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 15000;

export class EngineView {
  #control = null;
  #recent = []; // views of the last seconds, for rates
  #last = null;
  #colours = {};

  /** needKey: called with words when the server wants a key. */
  constructor(needKey) {
    this.needKey = needKey;
    this.pool = new Pool();
    this.steps = new Steps();
    this.latency = new Latency();
    this.rate = new Lines("rate", [["held"], ["kept"]], ([[out], [prompt]]) =>
      `Tokens per second now: ${count(out)} out, ${count(prompt)} of prompts in.`);
    this.batch = new Lines("batch", [["held", "wait"]], ([[running, waiting]]) =>
      `Requests now: ${running} running, ${waiting} waiting.`);
  }

  /** Watch, or stop to. */
  watch(wanted) {
    if (wanted === Boolean(this.#control)) return;
    if (wanted) {
      this.#control = new AbortController();
      this.repaint();
      this.#keepWatching(this.#control.signal);
    } else {
      this.#control.abort();
      this.#control = null;
      this.steps.pause();
    }
  }

  /** Colours are others. */
  repaint() {
    this.#colours = palette();
    if (this.#last && this.#control) this.#show(this.#last, { again: true });
  }

  async #keepWatching(signal) {
    let pauseMs = FIRST_PAUSE_MS;
    while (!signal.aborted) {
      let words = "The server ended the view.";
      try {
        const response = await call("live", { signal });
        for await (const data of events(response, signal)) {
          this.#show(parse(data));
          this.#say("live", "Live");
          pauseMs = FIRST_PAUSE_MS;
        }
      } catch (error) {
        if (signal.aborted) return;
        if (error.wantsKey) {
          this.#say("lost", error.message);
          this.needKey(error.message);
          return;
        }
        words = error.message;
      }
      this.steps.pause();
      for (let left = pauseMs; left > 0 && !signal.aborted; left -= 1000) {
        this.#say("lost", `${words} Trying again in ${Math.ceil(left / 1000)} s.`);
        await new Promise((resolve) => setTimeout(resolve, 1000));
      }
      pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS);
    }
  }

  #show(seen, { again = false } = {}) {
    const { engine, latencies } = seen;
    if (!again) this.#notice(engine);
    this.#last = seen;
    const [prompt, out] = this.#rates(engine);
    this.#figures(engine, prompt, out);
    this.pool.show(engine, this.#colours);
    this.steps.show(engine, this.#colours);
    if (again) return;
    this.latency.show(latencies, engine.now_s, this.#colours);
    this.rate.show(engine.now_s, [[out], [prompt]], this.#colours);
    this.batch.show(engine.now_s, [[engine.num_running, engine.num_waiting]], this.#colours);
  }

  /** A server that was started again counts from nothing, and may have another clock. */
  #notice(engine) {
    const before = this.#recent.at(-1);
    const another = before && (engine.now_s < before.now_s || engine.num_steps < before.num_steps);
    if (another) {
      this.#recent = [];
      for (const part of [this.steps, this.latency, this.rate, this.batch]) part.forget();
    }
    this.#recent.push(engine);
    while (this.#recent.length > 2 && this.#recent[1].now_s < engine.now_s - RATE_OVER_S) this.#recent.shift();
  }

  #rates(engine) {
    const before = this.#recent[0];
    const seconds = engine.now_s - before.now_s;
    if (!(seconds > 0)) return [0, 0];
    return ["prompt_tokens", "generation_tokens"].map(
      (name) => (engine[name] - before[name]) / seconds,
    );
  }

  #figures(engine, prompt, out) {
    const put = (id, text) => { element(id).textContent = text; };
    const held = (engine.num_blocks - engine.num_free_blocks - engine.num_evictable_blocks) / engine.num_blocks;
    const asked = engine.prefix_query_tokens;
    put("fig-running", count(engine.num_running));
    put("fig-running-of", `of ${count(engine.max_running)} places`);
    put("fig-waiting", count(engine.num_waiting));
    put("fig-out", count(out));
    put("fig-in", count(prompt));
    put("fig-in-of", asked ? `per second, ${Math.round((100 * engine.prefix_hit_tokens) / asked)} % cached` : "per second");
    put("fig-kv", `${(100 * held).toFixed(held < 0.1 ? 1 : 0)} %`);
    put("fig-preempted", count(engine.num_preemptions));
  }

  #say(state, words) {
    const place = element("connection");
    // Said again, a status would be read again.
    if (place.dataset.state === state && place.textContent === words) return;
    place.dataset.state = state;
    place.textContent = words;
  }
}
