// Puts the page together: views by the address's fragment, the model's name, the key.

import { Answers } from "./answers.js";
import { ChatView } from "./chat.js";
import { Chats } from "./chats.js";
import { askKey, element, notice, prepareDialogs, themeButton } from "./dialogs.js";
import { EngineView } from "./engine.js";
import { call } from "./server.js";
import { Settings } from "./settings.js";

const VIEWS = ["chat", "engine"];

const chats = new Chats();
const answers = new Answers(chats);
const settings = new Settings((values) => chats.useSettings(chatView.chat, values));
const chatView = new ChatView(chats, answers, settings);
const engineView = new EngineView(needKey);

prepareDialogs();
themeButton(() => engineView.repaint());
answers.addEventListener("key", ({ detail }) => needKey(detail));
element("key-button").addEventListener("click", () => needKey());
addEventListener("hashchange", showView);
document.addEventListener("visibilitychange", () => engineView.watch(isWatched()));
for (const width of ["(max-width: 56rem)", "(max-width: 75rem)"]) {
  // What was opened over the page becomes a column of it, or the other way round.
  matchMedia(width).addEventListener("change", () => {
    for (const open of document.querySelectorAll(":popover-open")) open.hidePopover();
  });
}
showView();
await learnModels();

function shownView() {
  const name = location.hash.slice(1);
  return VIEWS.includes(name) ? name : VIEWS[0];
}

function isWatched() {
  return shownView() === "engine" && !document.hidden;
}

function showView() {
  const name = shownView();
  for (const view of VIEWS) element(`${view}-view`).hidden = view !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  element("open-chats").hidden = name !== "chat";
  document.title = name === "engine" ? "Engine · octavo" : "octavo";
  engineView.watch(isWatched());
}

async function learnModels() {
  try {
    const { data } = await (await call("v1/models")).json();
    settings.know(data);
    settings.show(chatView.chat.settings);
    element("model-name").textContent = data[0].id;
    element("model-name").title = data[0].root;
    element("welcome-hint").textContent = `${data[0].id} answers, with up to ${data[0].max_model_len.toLocaleString("en")} tokens for a chat.`;
    notice();
  } catch (error) {
    if (error.wantsKey) needKey(error.message);
    else notice(error.message, "Try again", learnModels);
  }
}

async function needKey(words = "") {
  if (await askKey(words)) {
    await learnModels();
    engineView.watch(false);
    engineView.watch(isWatched());
  }
}
