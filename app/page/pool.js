// The KV block pool as a picture: a square for each block, or for every second, third, ... if there are many.

import { Canvas, count } from "./canvas.js";
import { element } from "./dialogs.js";

const MAX_SIDE = 26;
const MIN_SIDE = 4;
const COLOURS = ["free", "kept", "held", "shared"]; // by the digit that says a block's state

export class Pool {
  #states = "";
  #colours = {};
  #columns = 1;

  constructor() {
    this.canvas = new Canvas(element("pool"), (context, width) => this.#draw(context, width));
  }

  show(engine, colours) {
    const { pool, num_blocks, num_free_blocks, num_evictable_blocks } = engine;
    this.#states = pool.states;
    this.#colours = colours;
    this.#fit();
    this.canvas.paint();
    const held = num_blocks - num_free_blocks - num_evictable_blocks;
    // Exact where all are shown; elsewhere the picture is a sample.
    const shared = [...pool.states].filter((digit) => COLOURS[digit] === "shared").length;
    element("pool-held").textContent = count(pool.stride === 1 ? held - shared : held);
    element("pool-shared").textContent = pool.stride === 1 ? count(shared) : "";
    element("pool-kept").textContent = count(num_evictable_blocks);
    element("pool-free").textContent = count(num_free_blocks);
    const shown = pool.stride === 1 ? "" : `; one of ${pool.stride} is shown`;
    element("pool-read").textContent = `${count(num_blocks)} blocks of ${engine.block_size} tokens${shown}`;
    element("pool").ariaLabel =
      `KV cache: of ${num_blocks} blocks, ${held} are held, ${num_evictable_blocks} kept for their prefix, ` +
      `${num_free_blocks} free.`;
  }

  /** The height that the squares need at this width. */
  #fit() {
    const width = this.canvas.element.clientWidth;
    const wanted = Math.sqrt((width * Math.max(150, width * 0.42)) / this.#states.length);
    this.#columns = Math.ceil(width / Math.max(MIN_SIDE, Math.min(MAX_SIDE, wanted)));
    const rows = Math.ceil(this.#states.length / this.#columns);
    const height = `${Math.ceil((rows * width) / this.#columns)}px`;
    if (this.canvas.element.style.height !== height) this.canvas.element.style.height = height;
  }

  #draw(context, width) {
    const side = width / this.#columns;
    const inner = side - (side > 8 ? Math.max(1.5, side * 0.1) : 1);
    COLOURS.forEach((name, state) => {
      context.fillStyle = this.#colours[name];
      for (let at = this.#states.indexOf(state); at >= 0; at = this.#states.indexOf(state, at + 1)) {
        context.fillRect((at % this.#columns) * side, Math.floor(at / this.#columns) * side, inner, inner);
      }
    });
  }
}
