// The settings of a chat: fields in a form, checked as they are typed. An empty field is the server's own value.

import { element } from "./dialogs.js";

const RULES = {
  temperature: { what: "a number from 0 to 2", holds: (v) => v >= 0 && v <= 2 },
  top_p: { what: "a number above 0, at most 1", holds: (v) => v > 0 && v <= 1 },
  max_tokens: { what: "a whole number from 1", holds: (v) => Number.isSafeInteger(v) && v >= 1 },
  seed: { what: "a whole number", holds: (v) => Number.isSafeInteger(v) },
};
const UNSET = { temperature: 1, top_p: 1, max_tokens: "all" };

export class Settings {
  #form = element("settings-form");
  #reasons = new Map();
  #models = [];

  /** changed: called with the settings of the form whenever they are others, and right. */
  constructor(changed) {
    for (const name of Object.keys(RULES)) {
      const why = this.#why(name);
      this.#reasons.set(name, why.textContent);
    }
    this.#form.addEventListener("input", () => {
      const settings = this.#read();
      if (settings) changed(settings);
    });
    this.#form.addEventListener("submit", (event) => event.preventDefault());
    element("reset-settings").addEventListener("click", () => {
      this.show({});
      changed({});
    });
  }

  /** models: as the server lists them. */
  know(models) {
    this.#models = models;
    element("model-field").hidden = models.length < 2;
    element("set-model").replaceChildren(
      ...models.map(({ id }) => new Option(id, id)),
    );
    const own = models[0]?.default_sampling_params ?? {};
    for (const [name, unset] of Object.entries(UNSET)) this.#field(name).placeholder = own[name] ?? unset;
  }

  show(settings) {
    for (const field of this.#form.elements) {
      if (field.name) field.value = settings[field.name] ?? "";
    }
    if (!element("set-model").value && this.#models.length) element("set-model").value = this.#models[0].id;
    this.#read();
  }

  /** Null if a field is wrong; it says so itself. */
  #read() {
    const settings = {};
    let right = true;
    for (const [name, rule] of Object.entries(RULES)) {
      const field = this.#field(name);
      const value = field.value === "" ? null : Number(field.value);
      // What is no number reads as empty.
      const ok = !field.validity.badInput && (value === null || rule.holds(value));
      this.#tell(name, ok ? "" : `Must be ${rule.what}.`);
      right &&= ok;
      if (ok && value !== null) settings[name] = value;
    }
    if (this.#form.elements.system.value.trim()) settings.system = this.#form.elements.system.value;
    const model = element("set-model").value;
    if (this.#models.length > 1 && model !== this.#models[0].id) settings.model = model;
    return right ? settings : null;
  }

  #tell(name, wrong) {
    const why = this.#why(name);
    why.textContent = wrong || this.#reasons.get(name);
    why.classList.toggle("wrong", Boolean(wrong));
    if (wrong) this.#field(name).setAttribute("aria-invalid", "true");
    else this.#field(name).removeAttribute("aria-invalid");
  }

  #field(name) {
    return this.#form.elements[name];
  }

  #why(name) {
    return element(this.#field(name).getAttribute("aria-describedby"));
  }
}
