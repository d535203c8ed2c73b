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
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => header.querySelector('button').addEventListener('click', () => {
    const first = header.classList.contains('text') ? 'ascending' : 'descending';
    const other = first === 'ascending' ? 'descending' : 'ascending';
    const order = header.getAttribute('aria-sort') === first ? other : first;
    headers.forEach(h => h.setAttribute('aria-sort', 'none'));
    header.setAttribute('aria-sort', order);
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
  outline();
  const count = String(kept.length), size = canvas.width / 14;
  pen.font = `bold ${size}px sans-serif`;
  const width = pen.measureText(count).width + size * .7;
  pen.fillStyle = '#000';
  pen.fillRect(canvas.width - width, canvas.height - 1.4 * size, width, 1.4 * size);
  pen.fillStyle = '#fff';
  pen.fillText(count, canvas.width - width + size * .35, canvas.height - .4 * size);

  function outline() {
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
}
function kept(arm) {
  const raw = atob(arm.kept), found = [];
  for (let i = 0; i < raw.length * 8; i++) if (raw.charCodeAt(i >> 3) >> (i & 7) & 1) found.push(i);
  return found;
}
const sources = JSON.parse(document.getElementById('images').textContent), images = [];
function decoded(number) {
  // An image is decoded once, when the first gallery that shows it is built.
  images[number] ??= new Promise(done => {
    const image = new Image();
    image.onload = () => done(image);
    image.src = sources[number];
  });
  return images[number];
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
      make('div', question, item.question + ' \u2192 ' + item.reference);
      const arms = make('div', question, undefined, 'arms');
      for (const arm of item.arms.filter(a => budget.arms.includes(a.arm))) {
        const box = make('div', arms, undefined, 'arm');
        const canvas = make('canvas', box);
        canvas.setAttribute('role', 'img');
        canvas.setAttribute('aria-label', arm.arm + ' keeps ' + arm.n + ' tokens');
        decoded(item.image).then(image => paint(canvas, image, item.grid, kept(arm)));
        make('div', box, arm.arm);
        const mark = arm.right ? '\u2713 ' : '\u2717 ';
        make('div', box, mark + (arm.response || '(empty)'), arm.right ? 'right' : 'wrong');
      }
    }
  };
  slider.addEventListener('input', draw);
  draw();
}
const galleries = [...document.querySelectorAll('.gallery')];
const built = new Set();
function once(gallery) {
  if (built.has(gallery)) return;
  built.add(gallery);
  build(gallery);
}
// The first gallery at once; each other one when it comes near, or in an idle moment, or before the page is printed.
const watch = new IntersectionObserver(seen => seen.filter(one => one.isIntersecting).forEach(one => {
  watch.unobserve(one.target);
  once(one.target);
}), {rootMargin: '800px'});
galleries.forEach((gallery, place) => place ? watch.observe(gallery) : once(gallery));
const idle = window.requestIdleCallback ?? (work => setTimeout(work, 200));
function buildNext() {
  const next = galleries.find(gallery => !built.has(gallery));
  if (!next) return;
  once(next);
  idle(buildNext);
}
idle(buildNext);
// Details are opened for printing, and closed again.
const opened = [];
addEventListener('beforeprint', () => {
  galleries.forEach(once);
  for (const one of document.querySelectorAll('details:not([open])')) { one.open = true; opened.push(one); }
});
addEventListener('afterprint', () => opened.splice(0).forEach(one => { one.open = false; }));
document.documentElement.dataset.ready = 'yes';
