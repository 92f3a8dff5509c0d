// Answers under way, any number of them: one request each, from Send to its last token. Knows no elements.

import { Lanes, MAX_STREAMS } from "./lanes.js";
import { ServerError, call, events, parse } from "./server.js";

export class Answers extends EventTarget {
  #running = new Map();
  #lanes = new Lanes();

  /** Emits "end" (detail: { chat, message }) and "key" (detail: words) when the server wants one. */
  constructor(chats) {
    super();
    this.chats = chats;
  }

  isRunning(chat) {
    return this.#running.has(chat.id);
  }

  stop(chat) {
    this.#running.get(chat.id)?.abort();
  }

  /** Ask for an answer to the chat as it is; resolves when it has ended, however it did. */
  async start(chat) {
    if (this.isRunning(chat)) return;
    const message = { role: "assistant", text: "", state: "waiting", sentMs: Date.now() };
    const body = requestBody(chat);
    chat.messages.push(message);
    const control = new AbortController();
    this.#running.set(chat.id, control);
    this.chats.touch(chat, { list: true });
    try {
      await this.#stream(chat, message, body, control.signal);
      message.state = "done";
    } catch (error) {
      if (control.signal.aborted) {
        message.state = "stopped";
      } else {
        message.state = "failed";
        message.error = error instanceof ServerError ? error.message : `The page failed: ${error.message}`;
        if (error.wantsKey) this.#emit("key", error.message);
      }
    } finally {
      delete message.note;
      this.#running.delete(chat.id);
      this.chats.touch(chat, { list: true });
      this.chats.save();
      this.#emit("end", { chat, message });
    }
  }

  async #stream(chat, message, body, signal) {
    const late = setTimeout(() => {
      message.note = `Waiting for another answer of this page to end: a browser opens ${MAX_STREAMS} at once.`;
      this.chats.touch(chat);
    }, 300);
    const lane = await this.#lanes.take(signal).finally(() => clearTimeout(late));
    delete message.note;
    try {
      const began = performance.now();
      const response = await call("v1/chat/completions", { body, signal, credentials: lane.credentials });
      await this.#read(chat, message, began, events(response, signal));
    } finally {
      lane.leave();
    }
  }

  async #read(chat, message, began, stream) {
    let ended = false;
    for await (const data of stream) {
      if (data === "[DONE]") {
        ended = true;
        break;
      }
      const chunk = parse(data);
      const choice = chunk.choices[0];
      if (chunk.usage) {
        message.tokens = chunk.usage.completion_tokens;
        message.promptTokens = chunk.usage.prompt_tokens;
        message.cachedTokens = chunk.usage.prompt_tokens_details?.cached_tokens ?? 0;
      }
      const { content, reasoning } = choice?.delta ?? {};
      if (content || reasoning) {
        const now = performance.now() - began;
        message.firstMs ??= now;
        message.firstTokens ??= message.tokens ?? 1;
        message.lastMs = now;
        message.text += content ?? "";
        if (reasoning) message.reasoning = (message.reasoning ?? "") + reasoning;
      }
      if (choice?.finish_reason) message.finish = choice.finish_reason;
      const first = message.state === "waiting" && message.firstMs !== undefined;
      if (first) message.state = "streaming";
      this.chats.touch(chat, { list: first });
    }
    if (!ended) throw new ServerError("The connection to the server was lost before the answer was complete.");
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** Tokens per second after the first delivery, null while there is nothing to tell. */
export function speed(message) {
  const seconds = (message.lastMs - message.firstMs) / 1000;
  const tokens = message.tokens - message.firstTokens;
  return seconds > 0 && tokens > 0 ? tokens / seconds : null;
}

function requestBody(chat) {
  const { system, model, ...sampling } = chat.settings;
  const messages = system?.trim() ? [{ role: "system", content: system }] : [];
  for (const { role, text } of chat.messages) {
    const last = messages.at(-1);
    // An answer that failed left none: two questions in a row are one, since templates want turns.
    if (role === "user" && last?.role === "user") last.content += `\n\n${text}`;
    else if (text) messages.push({ role, content: text });
  }
  return {
    ...(model ? { model } : {}),
    ...sampling,
    messages,
    stream: true,
    stream_options: { include_usage: true, continuous_usage_stats: true },
  };
}
