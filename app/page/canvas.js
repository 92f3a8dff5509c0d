// A canvas in the page's colours and the screen's pixels. Knows nothing of what is drawn.

const NAMES = ["ink", "muted", "line", "edge", "surface", "held", "shared", "kept", "free", "wait", "danger"];

/** The colours of the theme as they are now. */
export function palette() {
  const probe = document.createElement("span");
  document.body.append(probe);
  const colours = {};
  for (const name of NAMES) {
    probe.style.color = `var(--${name})`;
    colours[name] = getComputedStyle(probe).color;
  }
  probe.remove();
  return colours;
}

export class Canvas {
  #context;
  #font;

  /** draw: called with (context, width, height), in CSS pixels, whenever the canvas has another size. */
  constructor(element, draw) {
    this.element = element;
    this.draw = draw;
    this.#context = element.getContext("2d");
    this.#font = `11px ${getComputedStyle(document.body).fontFamily}`;
    new ResizeObserver(() => this.paint()).observe(element);
  }

  paint() {
    const { clientWidth: width, clientHeight: height } = this.element;
    if (!width || !height) return;
    const ratio = devicePixelRatio;
    const wanted = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.element.width !== wanted[0] || this.element.height !== wanted[1]) [this.element.width, this.element.height] = wanted;
    const context = this.#context;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = this.#font;
    this.draw(context, width, height);
  }
}

/** The smallest of 1, 2, 5, 10, 20, ... that is not below `value`: a scale that does not jump at every step. */
export function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((n) => n * power).find((n) => n >= value * 0.9999);
}

export function count(value) {
  return Math.round(value).toLocaleString("en");
}

/** Seconds in the unit that suits them. */
export function duration(seconds) {
  if (seconds === null || Number.isNaN(seconds)) return "–";
  const ms = seconds * 1000;
  if (ms < 9.95) return `${ms.toFixed(1)} ms`;
  return ms < 999.5 ? `${Math.round(ms)} ms` : `${seconds.toFixed(seconds < 9.95 ? 2 : 1)} s`;
}
