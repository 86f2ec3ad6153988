// Labels of slices and of the study as a person ticks them: 1 yes, 0 no, null unknown.
const ticks = data.ticks, last = ticks.names.length - 1, unknown = ticks.names.map(() => null);
const given = { slice: data.labels ?? Array.from({ length: numSlices }, () => unknown), study: [ticks.study] };
const labels = { slice: given.slice.map((row) => [...row]), study: [[...ticks.study]] };
// The csv of one opened page: what it saves later stands for what it saved before.
const reader = `reader_${Math.random().toString(36).slice(2)}`;
let numSaves = 0, savedText = "";

// Returns a row with one label changed: the last label is yes where another is, no where none is.
function changed(row, k, value) {
  const others = row.slice(0, last), none = () => last > 0 && others.every((other) => other === 0);
  if (k < last) others[k] = value;
  else if (value !== 1) others.fill(value);
  else if (none()) others.fill(null);
  if (others.includes(1)) return [...others, 1];
  if (none()) return [...others, 0];
  if (k === last) return [...others, value];
  return [...others, row[k] === 1 || row[last] === 0 ? null : row[last]];
}

// Returns a row with no for what is unknown; of a bleed of unknown kind every kind stays open.
function completed(row) {
  return row[last] === 1 && !row.slice(0, last).includes(1) ? row : row.map((value) => value ?? 0);
}

// Returns what the slices say of the study: null where they leave it open.
function decided(k) {
  const column = labels.slice.map((row) => row[k]);
  return column.includes(1) ? 1 : column.every((value) => value === 0) ? 0 : null;
}

// Returns the label of the study to save: slices that decide one that nobody gave need no word of it.
function ofStudy(k) {
  const own = labels.study[0][k];
  return own === null && ticks.study[k] === null ? null : decided(k) ?? own;
}

function changedRows() {
  const rows = labels.slice.map((row, i) => [i + 1, row, given.slice[i]]);
  rows.push(["study", unknown.map((_, k) => ofStudy(k)), ticks.study]);
  return rows.filter(([, row, before]) => row.some((value, k) => value !== before[k]));
}

// Returns the changed rows, whole; that there are none (any more) is said too.
const changedText = () => JSON.stringify(changedRows().map(([place, row]) => [place, row]));

function save() {
  const rows = changedRows().map(([place, row]) => [place, ...row.map((value) => value ?? "")]);
  const head = ["page", "study", "reader", "save", "slice", ...ticks.names];
  numSaves += 1;
  savedText = changedText();
  const lines = (rows.length ? rows : [["none", ...unknown]]).map((row) => [ticks.page, ticks.number, reader, numSaves, ...row]);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([[head, ...lines].map((line) => `${line.join(",")}\n`).join("")], { type: "text/csv" }));
  link.download = `ticks_study_${ticks.number}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

function tick(place, k, value) {
  const i = place === "slice" ? state.slice : 0;
  labels[place][i] = changed(labels[place][i], k, value);
}

const actions = {
  rest: () => { labels.slice[state.slice] = completed(labels.slice[state.slice]); },
  all: () => { labels.slice = labels.slice.map(completed); },
  copy: () => { labels.slice[state.slice] = [...labels.slice[Math.max(state.slice - 1, 0)]]; },
  save,
};

const isSaved = () => changedText() === (savedText || "[]");

function showTicks() {
  for (const box of document.querySelectorAll(".tick input")) {
    const place = box.dataset.of, k = Number(box.dataset.label), i = place === "slice" ? state.slice : 0;
    const bySlices = place === "study" ? decided(k) : null, value = bySlices ?? labels[place][i][k];
    box.checked = value === 1;
    box.indeterminate = value === null;
    box.disabled = box.parentElement.querySelector("button").disabled = bySlices !== null;
    box.parentElement.classList.toggle("changed", (place === "study" ? ofStudy(k) : value) !== given[place][i][k]);
  }
  const places = changedRows().map(([place]) => place);
  get("changes").textContent = places.length ? `changed: ${places.join(", ")}${isSaved() ? " (saved)" : ""}` : "nothing is changed";
}

for (const cell of document.querySelectorAll(".tick")) {
  const { of: place, label } = cell.querySelector("input").dataset;
  cell.querySelector("input").addEventListener("change", (event) => { tick(place, Number(label), event.target.checked ? 1 : 0); showTicks(); });
  cell.querySelector("button").addEventListener("click", () => { tick(place, Number(label), null); showTicks(); });
}
get("ticks").addEventListener("click", (event) => { if (event.target.dataset.do) { actions[event.target.dataset.do](); showTicks(); } });
addEventListener("beforeunload", (event) => { if (!isSaved()) event.preventDefault(); });
afterShow.push(showTicks);
