// The chat view: which chat is shown, its transcript, the composer. Answers go on whatever is shown.

import { confirmDelete, element, notice } from "./dialogs.js";
import { MessageView, summary } from "./message.js";

const EXAMPLES = [
  "Explain how a book is folded from a single sheet.",
  "Write a haiku about rain on a tin roof.",
  "Name three primary colours, and what mixing them gives.",
];
const NEAR_END_PX = 60;

export class ChatView {
  #views = [];
  #shown = null;
  #unread = new Set();
  #drawing = 0;
  #follows = true;

  constructor(chats, answers, settings) {
    this.chats = chats;
    this.answers = answers;
    this.settings = settings;
    this.transcript = element("transcript");
    this.prompt = element("prompt");
    chats.addEventListener("change", ({ detail }) => this.#onChange(detail));
    chats.addEventListener("trouble", ({ detail }) => notice(detail, "Understood", () => notice()));
    answers.addEventListener("end", ({ detail }) => this.#onEnd(detail));
    this.#listen();
    this.#offerExamples();
    this.show(chats.get(sessionStorage.getItem("octavo.shown")) ?? chats.all()[0] ?? chats.create());
  }

  get chat() {
    return this.#shown;
  }

  show(chat) {
    this.#shown = chat;
    this.#views = [];
    this.#unread.delete(chat.id);
    sessionStorage.setItem("octavo.shown", chat.id);
    element("messages").replaceChildren();
    this.prompt.value = chat.draft;
    this.#grow();
    this.settings.show(chat.settings);
    this.#follows = true;
    this.#list();
    this.#draw();
    this.#toEnd();
  }

  #listen() {
    element("new-chat").addEventListener("click", () => this.#begin());
    element("delete-chat").addEventListener("click", () => this.#remove());
    element("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    element("stop").addEventListener("click", () => this.answers.stop(this.chat));
    element("latest").addEventListener("click", () => {
      this.#toEnd();
      this.transcript.focus();
    });
    this.prompt.addEventListener("input", () => {
      this.chat.draft = this.prompt.value;
      this.#grow();
      this.chats.touch(this.chat);
    });
    this.prompt.addEventListener("keydown", (event) => {
      // While a character is being composed, Enter belongs to the input method.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#send();
    });
    element("chat-view").addEventListener("keydown", (event) => {
      // What is open on top of the chat is closed by it, and nothing else.
      if (event.key !== "Escape" || event.isComposing || document.querySelector(":popover-open")) return;
      this.answers.stop(this.chat);
    });
    this.transcript.addEventListener("scroll", () => this.#onScroll(), { passive: true });
  }

  #begin() {
    const empty = this.chats.all().find((chat) => !chat.messages.length && !chat.draft);
    this.show(empty ?? this.chats.create());
    element("chats").matches(":popover-open") && element("chats").hidePopover();
    this.prompt.focus();
  }

  async #remove() {
    const { chat } = this;
    if (chat.messages.length && !(await confirmDelete())) return;
    this.answers.stop(chat);
    this.chats.remove(chat.id);
    this.show(this.chats.all()[0] ?? this.chats.create());
    this.prompt.focus();
  }

  #send() {
    const text = this.prompt.value.trim();
    const { chat } = this;
    if (!text || this.answers.isRunning(chat)) return;
    chat.draft = "";
    this.prompt.value = "";
    this.#grow();
    chat.messages.push({ role: "user", text });
    this.#follows = true;
    this.answers.start(chat);
  }

  #again() {
    const { chat } = this;
    if (this.answers.isRunning(chat) || chat.messages.at(-1)?.role !== "assistant") return;
    chat.messages.pop();
    this.#follows = true;
    this.answers.start(chat);
    this.prompt.focus();
  }

  #onChange(id) {
    if (!this.#shown) return;
    if (id === null) this.#list();
    if (id !== null && id !== this.chat.id) return;
    const now = this.chats.get(this.chat.id);
    if (now && now !== this.chat) this.show(now); // another tab wrote it
    this.#drawing ||= requestAnimationFrame(() => this.#draw());
  }

  #onEnd({ chat, message }) {
    if (chat.id !== this.chat.id) {
      this.#unread.add(chat.id);
      this.#list();
    }
    const where = chat.id === this.chat.id ? "" : ` In chat ${chat.title}.`;
    element("announcer").textContent = summary(message) + where;
  }

  #draw() {
    cancelAnimationFrame(this.#drawing);
    this.#drawing = 0;
    const { messages } = this.chat;
    const same = this.#views.findIndex((view, i) => view.message !== messages[i]);
    const kept = same < 0 ? this.#views.length : same;
    for (const view of this.#views.splice(kept)) view.element.remove();
    for (const message of messages.slice(kept)) {
      const view = new MessageView(message, () => this.#again());
      this.#views.push(view);
      element("messages").append(view.element);
    }
    // Only the last one can have changed, and the one before it is no longer the last.
    for (const view of this.#views.slice(-3)) view.update({ last: view === this.#views.at(-1) });
    const running = this.answers.isRunning(this.chat);
    const hadFocus = document.activeElement === element("stop") || document.activeElement === element("send");
    element("send").hidden = running;
    element("stop").hidden = !running;
    if (hadFocus) (running ? element("stop") : element("send")).focus();
    element("welcome").hidden = messages.length > 0;
    element("chat-title").textContent = this.chat.title || "New chat";
    if (this.#follows) this.#toEnd();
    else this.#onScroll();
  }

  #list() {
    const items = this.chats.all().map((chat) => this.#item(chat));
    element("chat-list").replaceChildren(...items);
  }

  #item(chat) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    const name = document.createElement("span");
    name.className = "name";
    name.textContent = chat.title || "New chat";
    button.append(name);
    const [kind, words] = this.#mark(chat);
    if (kind) {
      const mark = document.createElement("span");
      mark.className = `mark ${kind}`;
      mark.role = "img";
      mark.ariaLabel = words;
      button.append(mark);
    }
    if (chat.id === this.#shown?.id) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => {
      this.show(chat);
      element("chats").matches(":popover-open") && element("chats").hidePopover();
      this.prompt.focus();
    });
    item.append(button);
    return item;
  }

  #mark(chat) {
    const state = chat.messages.at(-1)?.state;
    if (state === "streaming") return ["streaming", "answering"];
    if (state === "waiting") return ["waiting", "waiting for an answer"];
    if (state === "failed") return ["error", "failed"];
    return this.#unread.has(chat.id) ? ["unread", "new answer"] : [];
  }

  #offerExamples() {
    for (const text of EXAMPLES) {
      const item = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = text;
      button.addEventListener("click", () => {
        this.prompt.value = text;
        this.#send();
        this.prompt.focus();
      });
      item.append(button);
      element("examples").append(item);
    }
  }

  #grow() {
    if (CSS.supports("field-sizing", "content")) return;
    this.prompt.style.height = "auto";
    this.prompt.style.height = `${this.prompt.scrollHeight + 2}px`;
  }

  #toEnd() {
    this.transcript.scrollTop = this.transcript.scrollHeight;
    element("latest").hidden = true;
  }

  #onScroll() {
    const { scrollTop, scrollHeight, clientHeight } = this.transcript;
    this.#follows = scrollHeight - clientHeight - scrollTop < NEAR_END_PX;
    element("latest").hidden = this.#follows;
  }
}
