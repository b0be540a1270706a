"use strict";
const root = document.documentElement;
const $ = (id) => document.getElementById(id);
const needsToken = root.dataset.token === "yes";
const canEdit = root.dataset.edit === "yes";
const neighbours = Number(root.dataset.neighbours);

const isDark = () =>
  root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
const nameTheme = () => { $("theme").textContent = isDark() ? "Light" : "Dark"; };
$("theme").addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; nameTheme(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", nameTheme);
$("theme").hidden = false;
nameTheme();

// The part of an address after # is sent to no server; it is taken out of the history, too.
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  sessionStorage.setItem("token", given);
  history.replaceState(null, "", location.pathname);
}
$("token").value = sessionStorage.getItem("token") || "";
const askForToken = () => { $("token-field").hidden = false; };
if (needsToken && !$("token").value) askForToken();

const call = async (path, body) => {
  const headers = {};
  if ($("token").value) headers.Authorization = `Bearer ${$("token").value}`;
  if (body) headers["Content-Type"] = "application/json";
  const response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
  const answer = await response.json();
  if (response.status === 401) askForToken();
  if (!response.ok) throw new Error(answer.error);
  sessionStorage.setItem("token", $("token").value);
  return answer;
};

const element = (name, text = "", className = "") => {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
};
const row = (...cells) => { const made = element("tr"); made.append(...cells); return made; };
const number = (value) => element("td", value.toFixed(3), "r");

let sentence = null;  // what was tagged last
let tags = [];  // of its words, corrections included
let chosen = null;

const showWord = () => {
  $("word").hidden = chosen === null;
  if (chosen === null) return;
  const word = sentence.opinions[chosen];
  $("chosen").textContent = word.word;
  const judges = { tagger: "tagger", neighbours: "knn", both: "mix" };
  $("judges").replaceChildren(...Object.entries(judges).map(([name, key]) => {
    const head = element("th", name);
    head.scope = "row";
    return row(head, element("td", word[key].ner_tag), number(word[key].p));
  }));
  $("near").replaceChildren(...word.neighbours.map((near) => {
    const context = element("td", "", "context");
    context.dir = "auto";
    context.append((near.cut[0] ? "… " : "") + near.before.map((each) => `${each} `).join(""));
    context.append(element("mark", near.word));
    context.append(near.after.map((each) => ` ${each}`).join("") + (near.cut[1] ? " …" : ""));
    return row(number(near.similarity), element("td", near.label), context);
  }));
  $("tag").value = tags[chosen];
  const known = new Set(["O"]);
  for (const each of sentence.opinions) {
    for (const { ner_tag } of [each.tagger, each.knn, each.mix]) known.add(ner_tag);
    for (const near of each.neighbours) known.add(near.label);
  }
  $("tags").replaceChildren(...[...known].sort().map((tag) => { const o = element("option"); o.value = tag; return o; }));
};

const showWords = () => {
  const parts = [];
  let end = 0;
  sentence.opinions.forEach((word, index) => {
    const button = element("button");
    button.type = "button";
    button.append(element("span", word.word, "w"));
    const corrected = tags[index] !== word.mix.ner_tag;
    const differs = word.tagger.ner_tag !== word.knn.ner_tag;
    const lines = corrected ? [["yours", tags[index]]] : differs
      ? [["tagger", word.tagger.ner_tag], ["neighbours", word.knn.ner_tag]]
      : tags[index] === "O" ? [] : [["", tags[index]]];
    for (const [who, tag] of lines) {
      const line = element("i");
      line.dir = "ltr";
      if (who) line.append(element("b", who), " ");
      line.append(tag);
      button.append(line);
    }
    if (lines.length) button.className = `t ${corrected ? "corrected" : differs ? "differs" : ""}`;
    button.setAttribute("aria-pressed", index === chosen);
    button.addEventListener("click", () => { chosen = chosen === index ? null : index; showWords(); showWord(); });
    if (word.start > end || !index) parts.push(" ");
    parts.push(button);
    end = word.end;
  });
  $("words").replaceChildren(...parts);
};

const show = (answer) => {
  [sentence] = answer.sentences;
  tags = [...sentence.ner_tags];
  if (chosen !== null && chosen >= tags.length) chosen = null;
  $("result").hidden = false;
  $("entities").replaceChildren(...sentence.entities.map((entity) => row(
    element("td", entity.word, "long"), element("td", entity.entity_group),
    number(entity.score), number(entity.p_tagger), number(entity.p_knn),
  )));
  $("no-entity").hidden = sentence.entities.length > 0;
  $("entity-table").hidden = !sentence.entities.length;
  showWords();
  showWord();
};

const doing = async (what, work) => {
  $("error").hidden = true;
  $("state").textContent = what;
  const buttons = [...document.querySelectorAll("button")].filter((button) => !button.disabled);
  for (const button of buttons) button.disabled = true;
  try {
    await work();
  } catch (error) {
    $("error").textContent = error.message;
    $("error").hidden = false;
  } finally {
    for (const button of buttons) button.disabled = false;
    $("state").textContent = "";
  }
};

const tag = async () => show(await call("tag", { text: $("text").value, neighbours, opinions: true }));

const showLog = async () => {
  const { edits } = await call("memory/log");
  $("version").textContent = `Version ${edits.length}.`;
  let present = edits.length;  // a version like the newest that is no return to another
  while (present && edits[present - 1].target !== null) present = edits[present - 1].target;
  $("undo").hidden = present === 0;
  $("undo").textContent = `Undo: back to version ${present - 1}`;
  $("undo").value = present - 1;
  $("undo").dataset.seen = edits.length;
  $("log").replaceChildren(...edits.slice(-10).reverse().map((edit) => element("li", [
    edit.version, edit.action,
    edit.target === null ? `${edit.sentences} sentences, ${edit.rows} words` : `to version ${edit.target}`,
    edit.source && `from ${edit.source}`, edit.who && `by ${edit.who}`, edit.when,
  ].filter(Boolean).join(" · "))));
};

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  chosen = null;
  doing("tagging …", async () => { await tag(); if (canEdit) await showLog(); });
});
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit();
});
$("correct").addEventListener("submit", (event) => {
  event.preventDefault();
  tags[chosen] = $("tag").value.trim();
  showWords();
});
$("teach").addEventListener("click", () => doing("remembering …", async () => {
  const sentences = [{ tokens: sentence.tokens, ner_tags: tags }];
  await call("memory/add", { sentences, source: "page" });
  await tag();
  await showLog();
}));
$("undo").addEventListener("click", () => doing("undoing …", async () => {
  await call("memory/rollback", { version: Number($("undo").value), seen: Number($("undo").dataset.seen) });
  if (sentence) await tag();
  await showLog();
}));
if (canEdit) {
  for (const each of document.querySelectorAll(".edit")) each.hidden = false;
  if ($("token").value) doing("", showLog);
}
