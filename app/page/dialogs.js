// The dialogs, the notice and the theme: what is asked and said outside of chat and engine.

import { apiKey, setApiKey } from "./server.js";

const THEME = "octavo.theme";
const THEMES = { auto: "as the system", light: "light", dark: "dark" };

export const element = (id) => document.getElementById(id);

/** Ask for a key; true once one was given. words: why, if the server has refused. */
export async function askKey(words = "") {
  const dialog = element("key-dialog");
  if (dialog.open) return false;
  element("key-why").textContent = words || "Requests carry this key. Leave it empty for a server that needs none.";
  element("key-input").value = apiKey();
  element("key-keep").checked = localStorage.getItem("octavo.key") !== null;
  if ((await shown(dialog)) !== "save") return false;
  setApiKey(element("key-input").value.trim(), element("key-keep").checked);
  return true;
}

export async function confirmDelete() {
  return (await shown(element("delete-dialog"))) === "delete";
}

/** Enter in a dialog presses its first submit button, which cancels; the last one is meant. */
export function prepareDialogs() {
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.target.tagName !== "INPUT") return;
      event.preventDefault();
      dialog.close([...dialog.querySelectorAll("button")].at(-1).value);
    });
  }
}

function shown(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true });
  });
}

/** Words at the top of the page, and a button under them; none takes them away. */
export function notice(words = "", action = "", act = () => {}) {
  const place = element("notice");
  place.hidden = !words;
  place.replaceChildren(words);
  if (!action) return;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = action;
  button.addEventListener("click", act);
  place.append(" ", button);
}

/** The button that goes through the themes; `changed` is called when colours are others. */
export function themeButton(changed) {
  const button = element("theme-button");
  const names = Object.keys(THEMES);
  const now = () => document.documentElement.dataset.theme ?? "auto";
  const label = () => {
    const next = names[(names.indexOf(now()) + 1) % names.length];
    button.title = `Theme: ${THEMES[now()]}`;
    button.setAttribute("aria-label", `Theme: ${THEMES[now()]}. Press for ${THEMES[next]}.`);
  };
  button.addEventListener("click", () => {
    const next = names[(names.indexOf(now()) + 1) % names.length];
    if (next === "auto") {
      delete document.documentElement.dataset.theme;
      localStorage.removeItem(THEME);
    } else {
      document.documentElement.dataset.theme = next;
      localStorage.setItem(THEME, next);
    }
    label();
    changed();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
  label();
}
