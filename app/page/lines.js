// What has come and gone in two minutes: lanes, each with a scale of its own, an area and lines over it.

import { Canvas, count, roundUp } from "./canvas.js";
import { element } from "./dialogs.js";

const WINDOW_S = 120;
const HEAD_PX = 15;
const FOOT_PX = 14;

export class Lines {
  #points = []; // { at, values }, values as the lanes
  #colours = {};

  /** lanes: for each its colours; the first is an area. words: what a point says, for those who do not see it. */
  constructor(id, lanes, words) {
    this.lanes = lanes;
    this.words = words;
    this.canvas = new Canvas(element(id), (context, width, height) => this.#draw(context, width, height));
  }

  forget() {
    this.#points = [];
  }

  show(at, values, colours) {
    this.#colours = colours;
    this.#points.push({ at, values });
    while (this.#points.length && this.#points[0].at < at - WINDOW_S) this.#points.shift();
    this.canvas.element.ariaLabel = this.words(values);
    this.canvas.paint();
  }

  #draw(context, width, height) {
    if (!this.#points.length) return;
    const tall = (height - FOOT_PX) / this.lanes.length;
    this.lanes.forEach((colours, i) => this.#lane(context, width, i * tall + HEAD_PX, (i + 1) * tall - 4, i, colours));
    context.fillStyle = this.#colours.muted;
    context.textAlign = "right";
    context.fillText("now", width, height - 2);
    context.textAlign = "center";
    context.fillText("−1 min", width / 2, height - 2);
  }

  #lane(context, width, top, floor, lane, colours) {
    const points = this.#points.map(({ at, values }) => ({ at, values: values[lane] }));
    const now = points.at(-1).at;
    const most = roundUp(Math.max(...points.flatMap((point) => point.values), 1));
    const x = (point) => width - ((now - point.at) / WINDOW_S) * width;
    const y = (value) => floor - (value / most) * (floor - top);
    context.fillStyle = this.#colours.muted;
    context.textAlign = "right";
    context.fillText(count(most), width, top - 4);
    context.fillStyle = this.#colours.line;
    for (const level of [floor, top]) context.fillRect(0, level, width, 1);
    colours.forEach((colour, i) => {
      const path = new Path2D();
      points.forEach((point, k) => path[k ? "lineTo" : "moveTo"](x(point), y(point.values[i])));
      context.strokeStyle = this.#colours[colour];
      context.lineWidth = 1.75;
      context.lineJoin = "round";
      context.stroke(path);
      if (i) return;
      path.lineTo(width, floor);
      path.lineTo(x(points[0]), floor);
      context.globalAlpha = 0.18;
      context.fillStyle = this.#colours[colour];
      context.fill(path);
      context.globalAlpha = 1;
    });
  }
}
