"use strict";
// The table of utterances: sorting, search and filters use all rows; one page is drawn at a time.
// Texts are untrusted: they are only ever inserted as text, never as HTML.
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const rows = data.columns;
const total = rows.id.length;
const PAGE_SIZE = 50; // rows
const MAX_PIECES = 2000; // of a text
const LONG = 1200; // characters; longer texts scroll
const byId = (id) => document.getElementById(id);
const hasValues = (values) => values.some((value) => value !== null && value !== "");
const several = (values) => new Set(values).size > 1;
const rate = rows.edits.map((edits, i) => (edits === null || !rows.units[i] ? null : edits / rows.units[i]));
const compared = hasValues(rows.beforeText);
const change = rows.edits.map((edits, i) => (edits === null || rows.beforeEdits[i] === null ? null : edits - rows.beforeEdits[i]));
// a common prefix of the ids is left out; the tooltip shows the full id
const prefix = total < 2 ? "" : rows.id.reduce((left, id) => {
  let n = 0;
  while (n < left.length && left[n] === id[n]) n++;
  return left.slice(0, n);
}).replace(/[^/_ -]*$/, "");
const shorten = (id) => (prefix.length > 12 ? `…${id.slice(prefix.length)}` : id);
const collator = new Intl.Collator(undefined, { numeric: true });

const state = { sortKey: hasValues(rows.excess) ? "excess" : "edits", descending: true, query: "", page: 0, show: "", language: "", corpus: "", slice: null, edit: null };

// key, heading, values, whether they are numbers, format function
const columns = [
  ["text", "text", rows.reference, false],
  hasValues(rows.excess) && ["excess", "excess", rows.excess, true, (value) => value.toFixed(1)],
  hasValues(rows.loss) && ["loss", "loss", rows.loss, true, (value) => value.toFixed(2)],
  ["edits", "edits", rows.edits, true, String],
  compared && ["before", "before", rows.beforeEdits, true, String],
  compared && ["change", "change", change, true, (value) => (value > 0 ? `+${value}` : String(value).replace("-", "−"))],
  ["rate", "rate", rate, true, (value) => `${(100 * value).toFixed(0)} %`],
  ["seconds", "seconds", rows.seconds, true, (value) => value.toFixed(1)],
  several(rows.speaker) && ["speaker", "speaker", rows.speaker, false],
  several(rows.language) && ["language", "language", rows.language, false],
  several(rows.corpus) && ["corpus", "corpus", rows.corpus, false],
  ["id", "id", rows.id, false, shorten],
].filter(Boolean);

const subsets = [
  ["with errors", (i) => rows.edits[i] > 0],
  ["without errors", (i) => rows.edits[i] === 0],
  ["worse than before", (i) => change[i] > 0],
  ["better than before", (i) => change[i] < 0],
];
for (const flag of new Set(rows.flags.flat())) subsets.push([flag, (i) => rows.flags[i].includes(flag)]);

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// searchable text of each row, computed at the first search
let haystacks = null;
const haystack = (i) => (haystacks ??= rows.id.map((id, n) =>
  [id, rows.reference[n], rows.hypothesis[n], joined(n)].join("\n").toLowerCase().normalize("NFC")))[i];
const separator = (i) => (rows.unit[i] === "character" ? "" : " ");
const joined = (i) => rows.pieces[i].map((piece) => (typeof piece === "string" ? piece : piece[1])).filter(Boolean).join(separator(i));

function matchingRows() {
  const tests = [];
  const query = state.query.toLowerCase().normalize("NFC");
  if (query) tests.push((i) => haystack(i).includes(query));
  if (state.show) tests.push(subsets.find(([name]) => name === state.show)[1]);
  for (const key of ["language", "corpus"]) if (state[key]) tests.push((i) => rows[key][i] === state[key]);
  if (state.slice) {
    const [key, value] = state.slice;
    const group = rows[key].includes(value) ? value : null; // null: the group of unknown values
    tests.push((i) => (rows[key][i] || null) === group);
  }
  if (state.edit) {
    const [reference, hypothesis] = state.edit;
    tests.push((i) => rows.pieces[i].some((piece) => typeof piece !== "string" && piece[0] === reference && piece[1] === hypothesis));
  }
  const indices = [];
  for (let i = 0; i < total; i++) if (tests.every((test) => test(i))) indices.push(i);
  return sorted(indices);
}

function sorted(indices) {
  const [, , values, number] = columns.find(([key]) => key === state.sortKey);
  const sign = state.descending ? -1 : 1;
  const order = number ? (a, b) => values[a] - values[b] : (a, b) => collator.compare(values[a], values[b]);
  const known = indices.filter((i) => values[i] !== null);
  const unknown = indices.filter((i) => values[i] === null); // always at the end
  return known.sort((a, b) => sign * order(a, b) || a - b).concat(unknown);
}

function drawPieces(i) {
  const box = element("bdi", { dir: "auto" });
  const visible = (text) => (text.trim() ? text : text.replaceAll(" ", "␣"));
  const parts = merged(rows.pieces[i], separator(i));
  for (const [n, [reference, hypothesis]] of parts.slice(0, MAX_PIECES).entries()) {
    if (n) box.append(separator(i));
    if (reference === hypothesis) box.append(reference);
    else if (reference && hypothesis) box.append(element("span", { class: "sub" }, element("del", {}, visible(reference)), " ", element("ins", {}, visible(hypothesis))));
    else box.append(element(reference ? "del" : "ins", {}, visible(reference || hypothesis)));
  }
  if (parts.length > MAX_PIECES) box.append(` … and ${parts.length - MAX_PIECES} more`);
  if (!parts.length) box.append(element("span", { class: "none" }, "no text"));
  if (box.textContent.length > LONG) box.classList.add("long");
  return box;
}

// adjacent insertions, or deletions, are drawn as one: a loop has thousands. Substituted words are
// not merged, so that each is next to its reference
function merged(pieces, between) {
  const parts = [];
  for (const piece of pieces) {
    const [reference, hypothesis] = typeof piece === "string" ? [piece, piece] : piece;
    const last = parts.at(-1);
    const both = last && reference && hypothesis && last[0] && last[1] && reference !== hypothesis && last[0] !== last[1];
    if (last && !reference && !last[0]) last[1] += between + hypothesis;
    else if (last && !hypothesis && !last[1]) last[0] += between + reference;
    else if (both && !between) [last[0], last[1]] = [last[0] + reference, last[1] + hypothesis];
    else parts.push([reference, hypothesis]);
  }
  return parts;
}

function play(i, button) {
  const audio = element("audio", { controls: "", preload: "auto", src: rows.sound[i] });
  audio.addEventListener("play", () => {
    for (const other of document.querySelectorAll("audio")) if (other !== audio) other.pause();
  });
  audio.addEventListener("error", () => {
    const source = rows.sound[i].startsWith("data:") ? "the embedded audio" : decodeURI(rows.sound[i]);
    audio.replaceWith(element("span", { class: "more" }, `cannot be played: ${source}`));
  });
  button.closest("tr").querySelector("td.text").append(audio);
  button.disabled = true;
  audio.play().catch(() => {}); // the error event is handled above
}

function detail(i) {
  const list = element("dl");
  const add = (name, value) => {
    if (value !== null && value !== "" && value !== undefined)
      list.append(element("dt", {}, name), element("dd", {}, element("bdi", { dir: "auto" }, String(value))));
  };
  add("reference", rows.reference[i]);
  add("hypothesis", rows.hypothesis[i] || "no text");
  if (compared) add("hypothesis before", rows.beforeText[i]);
  add("edits", rows.edits[i] === null ? "not counted" : `${rows.edits[i]} of ${rows.units[i]} ${rows.unit[i] === "character" ? "characters" : rows.unit[i] === "word" ? "words" : "words and characters"}`);
  for (const key of ["tokens", "speaker", "gender", "age", "accent", "language", "corpus", "id"]) add(key, rows[key][i]);
  if (rows.sound[i] && !rows.sound[i].startsWith("data:")) add("file", decodeURI(rows.sound[i]));
  return list;
}

function drawRow(i) {
  const row = element("tr");
  const first = element("td", { class: "short" });
  if (rows.sound[i]) {
    const button = element("button", { class: "play", "aria-label": `play ${rows.id[i]}` }, "▶");
    button.addEventListener("click", () => play(i, button));
    first.append(button);
  } else if (rows.noSound[i]) first.append(element("span", { class: "none", title: rows.noSound[i] }, "–"));
  row.append(first);
  for (const [key, heading, values, number, format] of columns) {
    if (key === "text") {
      const cell = element("td", { class: "text" }, drawPieces(i));
      for (const flag of rows.flags[i]) cell.append(element("span", { class: "flag" }, flag));
      cell.firstChild.addEventListener("click", () => {
        const open = cell.querySelector("dl");
        if (open) open.remove();
        else if (!String(getSelection())) cell.append(detail(i));
      });
      row.append(cell);
    } else {
      const value = values[i];
      const text = value === null || value === "" ? "–" : format ? format(value) : value;
      const cell = element("td", { class: number ? "n" : "id", "data-label": heading }, element("bdi", {}, text));
      if (!number) cell.title = value ?? "unknown";
      row.append(cell);
    }
  }
  return row;
}

const table = byId("rows");
const head = element("tr", {}, element("th"));
const body = element("tbody");
for (const [key, name, , number] of columns) {
  const button = element("button", { title: `sort by ${name}` }, name);
  button.addEventListener("click", () => {
    state.descending = state.sortKey === key ? !state.descending : number;
    state.sortKey = key;
    draw(true);
  });
  head.append(element("th", { class: number ? "n" : "", "data-key": key }, button));
}
table.append(element("thead", {}, head), body);

function select(key, name, options) {
  const node = element("select", { id: key, "aria-label": name }, element("option", { value: "" }, name));
  for (const [value, count] of options) node.append(element("option", { value }, count === null ? value : `${value} (${count})`));
  node.addEventListener("change", () => { state[key] = node.value; draw(true); });
  return node;
}

const filters = byId("filters");
const counts = subsets.map(([name, test]) => [name, rows.id.filter((_, i) => test(i)).length]).filter(([, count]) => count);
filters.append(select("show", "all utterances", counts), " ");
for (const [key, name] of [["language", "all languages"], ["corpus", "all corpora"]])
  if (several(rows[key])) filters.append(select(key, name, [...new Set(rows[key])].filter(Boolean).sort().map((value) => [value, null])), " ");

function drawChips() {
  for (const old of filters.querySelectorAll(".chip")) old.remove();
  const edit = state.edit && (state.edit[0] && state.edit[1] ? state.edit.join(" → ") : state.edit[0] ? `deletion of ${state.edit[0]}` : `insertion of ${state.edit[1]}`);
  for (const [key, text] of [["slice", state.slice && state.slice.join(": ")], ["edit", edit]]) {
    if (!text) continue;
    const chip = element("button", { class: "chip", title: "remove this filter" }, element("bdi", {}, text), " ✕");
    chip.addEventListener("click", () => { state[key] = null; draw(true); });
    filters.append(chip, " ");
  }
}

function draw(fromStart) {
  if (fromStart) state.page = 0;
  const matches = matchingRows();
  const first = state.page * PAGE_SIZE;
  const last = Math.min(first + PAGE_SIZE, matches.length);
  body.replaceChildren(...matches.slice(first, last).map(drawRow));
  for (const cell of head.children) {
    if (cell.dataset.key === state.sortKey) cell.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  }
  const format = (n) => n.toLocaleString("en");
  byId("count").textContent = matches.length === total ? `${format(total)} utterances` : `${format(matches.length)} of ${format(total)}`;
  byId("page").textContent = matches.length ? `${format(first + 1)} to ${format(last)} of ${format(matches.length)}` : "none";
  byId("previous").disabled = !first;
  byId("next").disabled = last >= matches.length;
  drawChips();
}

const turnPage = (by) => { state.page += by; draw(false); table.scrollIntoView(); };
byId("previous").addEventListener("click", () => turnPage(-1));
byId("next").addEventListener("click", () => turnPage(1));
byId("search").addEventListener("input", (event) => { state.query = event.target.value.trim(); draw(true); });
for (const button of document.querySelectorAll("[data-key][data-at]"))
  button.addEventListener("click", () => {
    state.slice = [button.dataset.key, data.slices[button.dataset.key][button.dataset.at]];
    draw(true);
    byId("search").scrollIntoView();
  });
for (const button of document.querySelectorAll("[data-edit]"))
  button.addEventListener("click", () => {
    state.edit = data.edits[button.dataset.edit];
    draw(true);
    byId("search").scrollIntoView();
  });
draw(true);
})();
