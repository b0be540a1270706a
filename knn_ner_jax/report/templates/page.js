"use strict";
const root = document.documentElement;
const theme = document.getElementById("theme");
const isDark = () =>
  root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
const nameTheme = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; nameTheme(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", nameTheme);
theme.hidden = false;
nameTheme();

const filters = document.getElementById("filters");
if (filters) {
  const plain = (text) => text.normalize("NFKC").toLowerCase();
  const sentences = [...document.querySelectorAll(".sentences > li")].map((item) => ({
    item,
    words: plain([...item.querySelectorAll(".words .w")].map((word) => word.textContent).join(" ")),
    changes: [...item.querySelectorAll(".change")].map((change) => ({
      kind: change.dataset.kind,
      types: change.dataset.types.split(" "),
    })),
  }));
  const [kind, type, text] = ["kind", "type", "text"].map((id) => document.getElementById(id));
  const apply = () => {
    const wanted = plain(text.value.trim());
    const fits = (change) =>
      (!kind.value || change.kind === kind.value) && (!type.value || change.types.includes(type.value));
    let shown = 0;
    for (const { item, words, changes } of sentences) {
      item.hidden = !(changes.some(fits) && words.includes(wanted));
      shown += !item.hidden;
    }
    document.getElementById("count").textContent = `${shown} of ${sentences.length} sentences`;
    document.getElementById("none").hidden = shown > 0;
  };
  filters.addEventListener("input", apply);
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.hidden = false;
  apply();
}
