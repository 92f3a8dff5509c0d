// One message as elements: its text, what is said about it, what can be done with it.

import { speed } from "./answers.js";
import { render } from "./prose.js";

const ENDS = {
  length: "ended at the token limit",
  stopped: "stopped",
  interrupted: "interrupted: the page was closed meanwhile",
  elsewhere: "coming in, in another tab",
};

export class MessageView {
  #text = make("div", "text");
  #foot = make("div", "foot");
  #figures = make("span", "figures-line");
  #error = make("p", "error");
  #alone = false;
  #reasoning = make("details", "reasoning");

  /** again: called to answer anew, where that is offered. */
  constructor(message, again) {
    this.message = message;
    this.element = make("li", `message ${message.role}`);
    this.element.append(make("span", "unseen", message.role === "user" ? "You" : "Answer"), this.#text);
    if (message.role === "assistant") {
      this.actions = make("span", "actions");
      this.actions.append(
        action("Copy", (button) => copy(message.text, button)),
        action("Try again", again),
      );
      this.#foot.append(this.#figures, this.actions);
      this.#reasoning.append(make("summary", "", "Reasoning"), make("div", "thought"));
      this.#text.before(this.#reasoning);
      this.element.append(this.#error, this.#foot);
    }
    this.update({ last: false });
  }

  /** last: whether it ends the chat, so that it may be tried again. */
  update({ last }) {
    const { message } = this;
    if (message.role === "user") {
      this.#text.textContent = message.text;
      return;
    }
    const busy = message.state === "waiting" || message.state === "streaming";
    this.element.setAttribute("aria-busy", String(busy));
    this.#reasoning.hidden = !message.reasoning;
    if (message.reasoning) render(this.#reasoning.lastChild, message.reasoning);
    // Open as long as it is all there is to see; after that, as the reader likes.
    const alone = busy && Boolean(message.reasoning) && !message.text;
    if (alone !== this.#alone) this.#reasoning.open = this.#alone = alone;
    if (message.text) render(this.#text, message.text);
    else this.#text.replaceChildren(...(busy && !message.reasoning ? [make("p", "pending", message.note ?? "Waiting for the first token")] : []));
    this.#error.hidden = !message.error;
    this.#error.textContent = message.error ?? "";
    this.actions.hidden = busy;
    this.actions.lastChild.hidden = !last;
    this.actions.firstChild.hidden = !message.text;
    this.#figures.replaceChildren(...figures(message));
    this.#foot.hidden = message.state === "waiting";
  }
}

/** In words, for somebody who does not see it. */
export function summary(message) {
  if (message.state === "failed") return `The answer failed: ${message.error}`;
  if (message.state === "stopped") return "The answer was stopped.";
  return `Answer complete, ${message.tokens ?? "some"} tokens.`;
}

function figures(message) {
  const parts = [];
  const rate = speed(message);
  if (rate !== null) parts.push([rate.toFixed(rate < 100 ? 1 : 0), " tokens/s"]);
  if (message.firstMs !== undefined) parts.push([duration(message.firstMs), " to first token"]);
  if (message.tokens) parts.push([String(message.tokens), message.tokens === 1 ? " token" : " tokens"]);
  if (message.cachedTokens) parts.push([`${message.cachedTokens} of ${message.promptTokens}`, " prompt tokens cached"]);
  const end = ENDS[message.state] ?? ENDS[message.finish];
  if (end) parts.push(["", end]);
  return parts.map(([value, words]) => {
    const part = make("span");
    part.append(make("b", "", value), words);
    return part;
  });
}

function duration(ms) {
  return ms < 995 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`;
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "The browser does not allow it";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

function action(label, act) {
  const button = make("button", "quiet", label);
  button.type = "button";
  button.addEventListener("click", () => act(button));
  return button;
}

function make(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}
