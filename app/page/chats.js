// All chats, kept in the browser under a key each, so that two tabs do not overwrite one another. Knows no server.
//
//   chat     { id, title, born, settings, draft, messages }
//   message  { role: "user", text }
//            { role: "assistant", text, reasoning, state, finish, error, firstMs, lastMs, tokens, promptTokens, cachedTokens }
//   state    waiting -> streaming -> done | stopped | failed | interrupted (the page was closed meanwhile)

const PREFIX = "octavo.chat.";
const SETTINGS = "octavo.settings";
const SAVE_AFTER_MS = 400;
const MAX_TITLE = 120;

export class Chats extends EventTarget {
  #chats = new Map();
  #unsaved = new Set();
  #timer = 0;
  #leaving = false;

  /** Emits "change" (detail: chat id, or null for the list), and "trouble" (detail: words). */
  constructor() {
    super();
    for (const key of Object.keys(localStorage)) {
      if (key.startsWith(PREFIX)) this.#read(key);
    }
    addEventListener("storage", (event) => this.#onOtherTab(event));
    addEventListener("pagehide", () => {
      this.save();
      // Answers are cut off now; the page that comes next calls them interrupted, not failed.
      this.#leaving = true;
    });
    addEventListener("pageshow", () => { this.#leaving = false; });
    document.addEventListener("visibilitychange", () => document.hidden && this.save());
  }

  /** Newest first. */
  all() {
    return [...this.#chats.values()].sort((a, b) => b.born - a.born);
  }

  get(id) {
    return this.#chats.get(id);
  }

  /** A chat that is kept once something is in it. Its settings are those that were used last. */
  create() {
    const settings = JSON.parse(localStorage.getItem(SETTINGS) ?? "{}");
    const chat = { id: crypto.randomUUID?.() ?? randomId(), title: "", born: Date.now(), settings, draft: "", messages: [] };
    this.#chats.set(chat.id, chat);
    this.#emit("change", null);
    return chat;
  }

  remove(id) {
    this.#chats.delete(id);
    this.#unsaved.delete(id);
    localStorage.removeItem(PREFIX + id);
    this.#emit("change", null);
  }

  /** Something in the chat has changed. */
  touch(chat, { list = false } = {}) {
    if (!this.#chats.has(chat.id)) return;
    if (!chat.title) {
      const first = chat.messages.find((message) => message.role === "user");
      chat.title = first ? first.text.trim().split("\n")[0].slice(0, MAX_TITLE) : "";
      list ||= Boolean(chat.title);
    }
    this.#unsaved.add(chat.id);
    this.#timer ||= setTimeout(() => this.save(), SAVE_AFTER_MS);
    this.#emit("change", list ? null : chat.id);
  }

  /** New chats begin with these. */
  useSettings(chat, settings) {
    chat.settings = settings;
    this.#write(SETTINGS, settings);
    this.touch(chat);
  }

  save() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    if (this.#leaving) return;
    for (const id of this.#unsaved) {
      const chat = this.#chats.get(id);
      if (chat && (chat.messages.length || chat.draft)) this.#write(PREFIX + id, chat);
    }
    this.#unsaved.clear();
  }

  #write(key, value) {
    try {
      localStorage.setItem(key, JSON.stringify(value));
    } catch {
      this.#emit("trouble", "This browser has no room left to keep chats: delete some, or what you write now is lost when the page is closed.");
    }
  }

  #read(key) {
    try {
      const chat = JSON.parse(localStorage.getItem(key));
      for (const message of chat.messages) {
        if (message.state === "streaming" || message.state === "waiting") message.state = "interrupted";
      }
      this.#chats.set(chat.id, chat);
    } catch {
      // Not what this page has written: left alone.
    }
  }

  #onOtherTab({ key, newValue }) {
    if (!key?.startsWith(PREFIX)) return;
    const id = key.slice(PREFIX.length);
    const busy = this.#chats.get(id)?.messages.some((message) => message.state === "streaming" || message.state === "waiting");
    if (busy) return; // this tab knows better
    if (newValue === null) this.#chats.delete(id);
    else this.#readLive(newValue);
    this.#emit("change", null);
  }

  /** As another tab has it, where an answer may still be coming in. */
  #readLive(value) {
    const chat = JSON.parse(value);
    for (const message of chat.messages) {
      if (message.state === "streaming" || message.state === "waiting") message.state = "elsewhere";
    }
    this.#chats.set(chat.id, chat);
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** Pages on plain http, other than localhost, have no randomUUID. */
function randomId() {
  return [...crypto.getRandomValues(new Uint32Array(4))].map((n) => n.toString(16).padStart(8, "0")).join("");
}
