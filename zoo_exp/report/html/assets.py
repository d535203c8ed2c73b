"""Style and script of the page, as text, since the page must stand alone."""

STYLE = """
:root { --ink: #16202a; --soft: #5b6875; --line: #d9dfe5; --back: #ffffff; --wash: #f4f6f8; --accent: #0072b2;
  --fill: #cfe3f1; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6ebf0; --soft: #9aa7b4; --line: #33404c; --back: #11181f; --wash: #1a232c; --accent: #56b4e9;
    --fill: #1d4560; }
  img.figure { background: #fff; border-radius: 6px; }
}
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: var(--back);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1480px; margin: 0 auto; padding: 0 20px 60px; }
header { background: var(--wash); border-bottom: 1px solid var(--line); }
header > div { max-width: 1480px; margin: 0 auto; padding: 22px 20px 16px; }
h1 { font-size: 1.5rem; margin: 0 0 4px; }
h2 { font-size: 1.25rem; margin: 44px 0 4px; padding-top: 14px; border-top: 2px solid var(--line);
  overflow-wrap: anywhere; }
h3 { font-size: 1.02rem; margin: 26px 0 6px; }
p, ul { margin: 6px 0; }
nav { position: sticky; top: 0; z-index: 3; background: var(--back); border-bottom: 1px solid var(--line); }
nav > div { max-width: 1480px; margin: 0 auto; padding: 7px 20px; display: flex; flex-wrap: wrap; gap: 2px 16px;
  white-space: nowrap; font-size: .86rem; max-height: 5.2em; overflow-y: auto; }
section { scroll-margin-top: 76px; }
.headline { border-left: 4px solid var(--accent); background: var(--wash); padding: 10px 16px; margin: 14px 0;
  border-radius: 0 6px 6px 0; }
.headline p { margin: 2px 0; overflow-wrap: anywhere; }
.headline p:first-child { font-size: 1.12rem; font-weight: 600; }
.chips { display: flex; flex-wrap: wrap; gap: 6px; margin: 8px 0 2px; align-items: center; }
.chips button { font: inherit; font-size: .82rem; color: var(--ink); background: var(--wash); cursor: pointer;
  border: 1px solid var(--line); border-radius: 999px; padding: 2px 12px; }
.chips button[aria-pressed=true] { background: var(--accent); border-color: var(--accent); color: var(--back); }
td.bar { background: linear-gradient(90deg, var(--fill) var(--bar, 0), transparent var(--bar, 0)) no-repeat
  4px 50% / calc(100% - 8px) 72%; }
a { color: var(--accent); }
code { background: var(--wash); padding: 1px 5px; border-radius: 4px; overflow-wrap: anywhere; }
.soft, caption, .notes { color: var(--soft); font-size: .86rem; }
.warn { border-left: 4px solid #d55e00; background: var(--wash); padding: 8px 12px; margin: 10px 0; }
.scroll { overflow-x: auto; margin: 8px 0; }
table { border-collapse: separate; border-spacing: 0; font-size: .84rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; caption-side: bottom; padding-top: 4px; }
th, td { padding: 3px 6px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { border-bottom: 2px solid var(--line); background: var(--back); vertical-align: bottom; white-space: normal;
  min-width: 3.1em; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--back); z-index: 1; padding-left: 2px; }
td:first-child { max-width: 24em; overflow-wrap: anywhere; white-space: normal; min-width: 14em; }
th.text, td.text { text-align: left; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid var(--accent); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
tbody tr:hover, tbody tr:hover td:first-child { background-color: var(--wash); }
tr.first td { border-top: 2px solid var(--line); }
td.best { font-weight: 700; }
td.published { font-style: italic; color: var(--soft); }
.figures { display: flex; flex-wrap: wrap; gap: 14px; align-items: flex-start; }
figure { margin: 8px 0; max-width: 100%; }
img.figure { max-width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: .84rem; max-width: 70ch; }
.gallery { min-height: 220px; }
.gallery .question { border-top: 1px solid var(--line); padding: 10px 0; }
.gallery .arms { display: flex; flex-wrap: wrap; gap: 12px; margin-top: 6px; }
.gallery .arm { width: 150px; font-size: .78rem; }
.gallery canvas { width: 150px; height: auto; display: block; border-radius: 3px; }
.gallery .right { color: #00795a; font-weight: 700; } .gallery .wrong { color: #c8480a; font-weight: 700; }
@media (prefers-color-scheme: dark) { .gallery .right { color: #2fc29a; } .gallery .wrong { color: #ff8a4c; } }
.gallery .control { display: flex; gap: 12px; align-items: center; margin: 8px 0; flex-wrap: wrap; }
.gallery input[type=range] { width: 220px; }
pre { background: var(--wash); padding: 12px; overflow-x: auto; font-size: .8rem; }
details { margin: 10px 0; }
summary { cursor: pointer; color: var(--accent); }
@media print { nav, .control, .chips { display: none; } main { max-width: none; } }
"""

SCRIPT = """
'use strict';
function key(row, column) {
  const cell = row.cells[column];
  if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
  return cell.textContent.trim();
}
function compare(a, b) {
  const numbers = [typeof a === 'number', typeof b === 'number'];
  if (numbers[0] && numbers[1]) return a - b;
  if (numbers[0] !== numbers[1]) return null;
  return a.localeCompare(b, undefined, {numeric: true});
}
for (const table of document.querySelectorAll('table.sortable')) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector('button').addEventListener('click', () => {
    const first = head.classList.contains('text') ? 'ascending' : 'descending';
    const other = first === 'ascending' ? 'descending' : 'ascending';
    const order = head.getAttribute('aria-sort') === first ? other : first;
    heads.forEach(h => h.setAttribute('aria-sort', 'none'));
    head.setAttribute('aria-sort', order);
    const sign = order === 'ascending' ? 1 : -1;
    const rows = [...table.tBodies[0].rows];
    rows.sort((x, y) => {
      const a = key(x, column), b = key(y, column), c = compare(a, b);
      // What is no number stands below, whatever the order.
      return c === null ? (typeof a === 'number' ? -1 : 1) : sign * c;
    });
    rows.forEach(row => table.tBodies[0].append(row));
  }));
}
for (const table of document.querySelectorAll('table.sortable')) {
  const rows = [...table.tBodies[0].rows];
  const budgets = [...new Set(rows.map(row => row.dataset.b).filter(b => b !== undefined))];
  if (budgets.length < 2) continue;
  const chips = document.createElement('div');
  chips.className = 'chips';
  table.parentElement.before(chips);
  const buttons = ['all budgets', ...budgets].map((text, place) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = text;
    button.setAttribute('aria-pressed', String(place === 0));
    button.addEventListener('click', () => {
      buttons.forEach(b => b.setAttribute('aria-pressed', String(b === button)));
      rows.forEach(row => { row.hidden = place > 0 && row.dataset.b !== undefined && row.dataset.b !== text; });
    });
    chips.append(button);
    return button;
  });
}
function make(name, parent, text, kind) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (kind) node.className = kind;
  parent.append(node);
  return node;
}
function paint(canvas, image, grid, kept) {
  const [rows, columns] = grid, scale = Math.max(1, Math.round(300 / Math.max(image.width, image.height)));
  canvas.width = image.width * scale; canvas.height = image.height * scale;
  const pen = canvas.getContext('2d');
  pen.imageSmoothingEnabled = scale < 3;
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  const stays = new Set(kept), w = canvas.width / columns, h = canvas.height / rows;
  pen.fillStyle = 'rgba(10, 14, 20, .78)';
  for (let i = 0; i < rows * columns; i++) {
    if (!stays.has(i)) pen.fillRect((i % columns) * w, Math.floor(i / columns) * h, w + .5, h + .5);
  }
  if (kept.length === rows * columns) return;
  pen.strokeStyle = '#ffd75e'; pen.lineWidth = Math.max(1.5, scale * .5);
  pen.beginPath();
  for (const i of kept) {
    const r = Math.floor(i / columns), c = i % columns, x = c * w, y = r * h;
    if (c === 0 || !stays.has(i - 1)) { pen.moveTo(x, y); pen.lineTo(x, y + h); }
    if (c === columns - 1 || !stays.has(i + 1)) { pen.moveTo(x + w, y); pen.lineTo(x + w, y + h); }
    if (r === 0 || !stays.has(i - columns)) { pen.moveTo(x, y); pen.lineTo(x + w, y); }
    if (r === rows - 1 || !stays.has(i + columns)) { pen.moveTo(x, y + h); pen.lineTo(x + w, y + h); }
  }
  pen.stroke();
}
function kept(arm) {
  const raw = atob(arm.kept), found = [];
  for (let i = 0; i < raw.length * 8; i++) if (raw.charCodeAt(i >> 3) >> (i & 7) & 1) found.push(i);
  return found;
}
const sources = JSON.parse(document.getElementById('pictures').textContent), pictures = [];
function picture(number) {
  // A picture is decoded once, when the first gallery that shows it comes into view.
  pictures[number] ??= new Promise(done => {
    const image = new Image();
    image.onload = () => done(image);
    image.src = sources[number];
  });
  return pictures[number];
}
function build(gallery) {
  const data = JSON.parse(gallery.querySelector('script').textContent);
  const control = make('div', gallery, undefined, 'control');
  const label = make('label', control, 'budget ');
  const slider = make('input', label);
  slider.type = 'range'; slider.min = 0; slider.max = data.budgets.length - 1; slider.step = 1;
  slider.value = slider.max;
  const shown = make('output', control);
  const body = make('div', gallery);
  slider.disabled = data.budgets.length < 2;
  const draw = () => {
    const budget = data.budgets[Number(slider.value)];
    shown.textContent = budget.label;
    slider.setAttribute('aria-valuetext', budget.label);
    body.replaceChildren();
    for (const item of data.items) {
      const question = make('div', body, undefined, 'question');
      make('div', question, item.task, 'soft');
      make('div', question, item.question + ' \\u2192 ' + item.reference);
      const arms = make('div', question, undefined, 'arms');
      for (const arm of item.arms.filter(a => budget.arms.includes(a.arm))) {
        const box = make('div', arms, undefined, 'arm');
        const canvas = make('canvas', box);
        canvas.setAttribute('role', 'img');
        canvas.setAttribute('aria-label', arm.arm + ' keeps ' + arm.n + ' tokens');
        picture(item.image).then(image => paint(canvas, image, item.grid, kept(arm)));
        make('div', box, arm.arm + ' \\u00b7 ' + arm.n);
        const mark = arm.right ? '\\u2713 ' : '\\u2717 ';
        make('div', box, mark + (arm.response || '(empty)'), arm.right ? 'right' : 'wrong');
      }
    }
  };
  slider.addEventListener('input', draw);
  draw();
}
const galleries = [...document.querySelectorAll('.gallery')];
const watch = new IntersectionObserver(seen => seen.filter(one => one.isIntersecting).forEach(one => {
  watch.unobserve(one.target);
  build(one.target);
}), {rootMargin: '800px'});
// The first one at once; the others when they come near, as all of them together are thousands of drawings.
galleries.forEach((gallery, place) => place ? watch.observe(gallery) : build(gallery));
document.documentElement.dataset.ready = 'yes';
"""
