"use strict";
// The table of utterances: sorted, searched and filtered over all rows, drawn a page at a time.
// Texts come from strangers: they reach the page through textContent alone.
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const rows = data.columns;
const total = rows.id.length;
const PAGE = 50; // rows drawn at once
const MOST = 2000; // pieces of a text drawn at once
const LONG = 1200; // characters from which a text scrolls
const byId = (id) => document.getElementById(id);
const told = (values) => values.some((value) => value !== null && value !== "");
const several = (values) => new Set(values).size > 1;
const rate = rows.edits.map((edits, i) => (edits === null || !rows.units[i] ? null : edits / rows.units[i]));
const compared = told(rows.beforeText);
const change = rows.edits.map((edits, i) => (edits === null || rows.beforeEdits[i] === null ? null : edits - rows.beforeEdits[i]));
// ids of a corpus often begin alike: what they share is left out, and told when pointed at
const shared = total < 2 ? "" : rows.id.reduce((left, id) => {
  let n = 0;
  while (n < left.length && left[n] === id[n]) n++;
  return left.slice(0, n);
}).replace(/[^/_ -]*$/, "");
const shortened = (id) => (shared.length > 12 ? `…${id.slice(shared.length)}` : id);
const collator = new Intl.Collator(undefined, { numeric: true });

const state = { by: told(rows.excess) ? "excess" : "edits", down: true, query: "", page: 0, show: "", language: "", corpus: "", slice: null, edit: null };

// key, head, values, whether they are numbers, how one is told
const columns = [
  ["text", "text", rows.reference, false],
  told(rows.excess) && ["excess", "excess", rows.excess, true, (value) => value.toFixed(1)],
  told(rows.loss) && ["loss", "loss", rows.loss, true, (value) => value.toFixed(2)],
  ["edits", "edits", rows.edits, true, String],
  compared && ["before", "before", rows.beforeEdits, true, String],
  compared && ["change", "change", change, true, (value) => (value > 0 ? `+${value}` : String(value).replace("-", "−"))],
  ["rate", "rate", rate, true, (value) => `${(100 * value).toFixed(0)} %`],
  ["seconds", "seconds", rows.seconds, true, (value) => value.toFixed(1)],
  several(rows.speaker) && ["speaker", "speaker", rows.speaker, false],
  several(rows.language) && ["language", "language", rows.language, false],
  several(rows.corpus) && ["corpus", "corpus", rows.corpus, false],
  ["id", "id", rows.id, false, shortened],
].filter(Boolean);

const shows = [
  ["with errors", (i) => rows.edits[i] > 0],
  ["without errors", (i) => rows.edits[i] === 0],
  ["worse than before", (i) => change[i] > 0],
  ["better than before", (i) => change[i] < 0],
];
for (const flag of new Set(rows.flags.flat())) shows.push([flag, (i) => rows.flags[i].includes(flag)]);

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// what is searched: made once, when it is first needed
let haystack = null;
const hay = () => (haystack ??= rows.id.map((id, i) =>
  [id, rows.reference[i], rows.hypothesis[i], joined(i)].join("\n").toLowerCase().normalize("NFC")));
const gap = (i) => (rows.unit[i] === "character" ? "" : " ");
const joined = (i) => rows.pieces[i].map((piece) => (typeof piece === "string" ? piece : piece[1])).filter(Boolean).join(gap(i));

function chosen() {
  const tests = [];
  const query = state.query.toLowerCase().normalize("NFC");
  if (query) tests.push((i) => hay()[i].includes(query));
  if (state.show) tests.push(shows.find(([name]) => name === state.show)[1]);
  for (const key of ["language", "corpus"]) if (state[key]) tests.push((i) => rows[key][i] === state[key]);
  if (state.slice) {
    const [key, value] = state.slice;
    const unknown = rows[key].includes(value) ? value : null; // a slice of what is not known
    tests.push((i) => (rows[key][i] || null) === (unknown && value));
  }
  if (state.edit) {
    const [said, heard] = state.edit;
    tests.push((i) => rows.pieces[i].some((piece) => typeof piece !== "string" && piece[0] === said && piece[1] === heard));
  }
  const found = [];
  for (let i = 0; i < total; i++) if (tests.every((test) => test(i))) found.push(i);
  return sorted(found);
}

function sorted(found) {
  const [, , values, number] = columns.find(([key]) => key === state.by);
  const sign = state.down ? -1 : 1;
  const order = number ? (a, b) => values[a] - values[b] : (a, b) => collator.compare(values[a], values[b]);
  const known = found.filter((i) => values[i] !== null);
  const unknown = found.filter((i) => values[i] === null); // always at the end
  return known.sort((a, b) => sign * order(a, b) || a - b).concat(unknown);
}

function drawPieces(i) {
  const box = element("bdi", { dir: "auto" });
  const show = (text) => (text.trim() ? text : text.replaceAll(" ", "␣"));
  const parts = merged(rows.pieces[i], gap(i));
  for (const [n, [said, heard]] of parts.slice(0, MOST).entries()) {
    if (n) box.append(gap(i));
    if (said === heard) box.append(said);
    else if (said && heard) box.append(element("span", { class: "sub" }, element("del", {}, show(said)), " ", element("ins", {}, show(heard))));
    else box.append(element(said ? "del" : "ins", {}, show(said || heard)));
  }
  if (parts.length > MOST) box.append(` … and ${parts.length - MOST} more`);
  if (!parts.length) box.append(element("span", { class: "none" }, "no text"));
  if (box.textContent.length > LONG) box.classList.add("long");
  return box;
}

// neighbours of one kind are drawn as one: a loop adds thousands. Words that were heard instead of
// others stay apart, so that it can be seen which is which
function merged(pieces, between) {
  const parts = [];
  for (const piece of pieces) {
    const [said, heard] = typeof piece === "string" ? [piece, piece] : piece;
    const last = parts.at(-1);
    const both = last && said && heard && last[0] && last[1] && said !== heard && last[0] !== last[1];
    if (last && !said && !last[0]) last[1] += between + heard;
    else if (last && !heard && !last[1]) last[0] += between + said;
    else if (both && !between) [last[0], last[1]] = [last[0] + said, last[1] + heard];
    else parts.push([said, heard]);
  }
  return parts;
}

function play(i, button) {
  const audio = element("audio", { controls: "", preload: "auto", src: rows.sound[i] });
  audio.addEventListener("play", () => {
    for (const other of document.querySelectorAll("audio")) if (other !== audio) other.pause();
  });
  audio.addEventListener("error", () => {
    const where = rows.sound[i].startsWith("data:") ? "its sound" : decodeURI(rows.sound[i]);
    audio.replaceWith(element("span", { class: "more" }, `cannot be played: ${where}`));
  });
  button.closest("tr").querySelector("td.text").append(audio);
  button.disabled = true;
  audio.play().catch(() => {}); // the event says more
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
  } else if (rows.silent[i]) first.append(element("span", { class: "none", title: rows.silent[i] }, "–"));
  row.append(first);
  for (const [key, head, values, number, tell] of columns) {
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
      const text = value === null || value === "" ? "–" : tell ? tell(value) : value;
      const cell = element("td", { class: number ? "n" : "id", "data-label": head }, element("bdi", {}, text));
      if (!number) cell.title = value ?? "not known";
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
    state.down = state.by === key ? !state.down : number;
    state.by = key;
    draw(true);
  });
  head.append(element("th", { class: number ? "n" : "", "data-key": key }, button));
}
table.append(element("thead", {}, head), body);

function select(key, name, options) {
  const made = element("select", { id: key, "aria-label": name }, element("option", { value: "" }, name));
  for (const [value, count] of options) made.append(element("option", { value }, count === null ? value : `${value} (${count})`));
  made.addEventListener("change", () => { state[key] = made.value; draw(true); });
  return made;
}

const filters = byId("filters");
const counted = shows.map(([name, test]) => [name, rows.id.filter((_, i) => test(i)).length]).filter(([, count]) => count);
filters.append(select("show", "all utterances", counted), " ");
for (const [key, name] of [["language", "all languages"], ["corpus", "all corpora"]])
  if (several(rows[key])) filters.append(select(key, name, [...new Set(rows[key])].filter(Boolean).sort().map((value) => [value, null])), " ");

function drawChips() {
  for (const old of filters.querySelectorAll(".chip")) old.remove();
  const told = state.edit && (state.edit[0] && state.edit[1] ? state.edit.join(" → ") : state.edit[0] ? `deletion of ${state.edit[0]}` : `insertion of ${state.edit[1]}`);
  for (const [key, text] of [["slice", state.slice && state.slice.join(": ")], ["edit", told]]) {
    if (!text) continue;
    const chip = element("button", { class: "chip", title: "remove this filter" }, element("bdi", {}, text), " ✕");
    chip.addEventListener("click", () => { state[key] = null; draw(true); });
    filters.append(chip, " ");
  }
}

function draw(fromStart) {
  if (fromStart) state.page = 0;
  const found = chosen();
  const first = state.page * PAGE;
  const last = Math.min(first + PAGE, found.length);
  body.replaceChildren(...found.slice(first, last).map(drawRow));
  for (const cell of head.children) {
    if (cell.dataset.key === state.by) cell.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  }
  const many = (n) => n.toLocaleString("en");
  byId("count").textContent = found.length === total ? `${many(total)} utterances` : `${many(found.length)} of ${many(total)}`;
  byId("page").textContent = found.length ? `${many(first + 1)} to ${many(last)} of ${many(found.length)}` : "none";
  byId("previous").disabled = !first;
  byId("next").disabled = last >= found.length;
  drawChips();
}

const turn = (by) => { state.page += by; draw(false); table.scrollIntoView(); };
byId("previous").addEventListener("click", () => turn(-1));
byId("next").addEventListener("click", () => turn(1));
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
