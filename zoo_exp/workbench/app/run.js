'use strict';
const run = state.run, browsing = {page: 0, number: null, timer: null};
function options(select, entries) {
  for (const [value, text] of entries) make('option', select, text).value = value;
}
options(at('kind'), Object.entries(run.kinds));
options(at('mine'), run.arms.map(arm => [arm, arm]));
options(at('task'), [['', 'all tasks'], ...run.tasks.map(task => [task, task])]);
at('mine').value = run.mine;

function mark(parent, right) {
  if (right !== null && right !== undefined) make('span', parent, right ? '\u2713 ' : '\u2717 ', right ? 'right' : 'wrong');
}
async function list() {
  const query = new URLSearchParams({kind: at('kind').value, mine: at('mine').value, task: at('task').value,
    text: at('text').value, page: browsing.page});
  let found;
  try { found = await request(`/questions?${query}`); } catch (error) { at('count').textContent = error.message; return; }
  browsing.page = found.page;
  at('count').textContent = `${found.total} of ${found.questions} questions`;
  at('page').textContent = `page ${found.page + 1} of ${found.pages}`;
  at('before').disabled = found.page === 0;
  at('after').disabled = found.page + 1 >= found.pages;
  at('list').replaceChildren();
  for (const item of found.items) {
    const button = make('button', make('li', at('list')));
    button.type = 'button';
    button.dataset.n = item.n;
    const meta = make('span', button, undefined, 'meta');
    make('span', meta, `${item.task} ${item.id}`);
    if (item.scored) make('span', meta, `${item.right} of ${item.scored} arms right`);
    make('div', button, item.question);
    const line = make('div', button, undefined, 'soft');
    mark(line, item.mine);
    make('span', line, item.response === undefined ? '' : item.response || '(empty)');
    make('span', line, `  (reference: ${item.reference})`);
    button.addEventListener('click', () => show(item.n, true));
  }
  if (found.items.length) show(found.items[0].n, false);
  else at('detail').replaceChildren();
}
async function show(number, moved) {
  browsing.number = number;
  let found;
  try { found = await request(`/question?n=${number}`); } catch (error) { at('count').textContent = error.message; return; }
  if (browsing.number !== number) return;
  for (const button of at('list').querySelectorAll('button')) button.setAttribute('aria-current', String(button.dataset.n === String(number)));
  const box = at('detail');
  box.replaceChildren();
  make('h2', box, found.question);
  make('p', box, `Reference answer: ${found.reference}`);
  make('p', box, `${found.task}, sample ${found.id}. ${found.masked ? '' : 'This run has no mask of this question.'}`, 'soft');
  const panels = make('div', box, undefined, 'panels');
  for (const arm of found.arms) {
    const panel = make('article', panels, undefined, arm.arm === at('mine').value ? 'panel mine' : 'panel');
    make('h3', panel, arm.arm);
    if (arm.figure) {
      const image = make('img', panel);
      image.src = arm.figure;
      image.alt = `kept tokens of ${arm.arm}`;
    }
    if (arm.problem) { make('p', panel, arm.problem, 'soft'); continue; }
    const line = make('p', panel, undefined, 'response');
    mark(line, arm.right);
    make('span', line, arm.response || '(empty)');
    make('p', panel, `${arm.kept} tokens${arm.layers === null ? '' : ` (layer mean ${arm.layers})`}`, 'soft');
  }
  if (moved && matchMedia('(max-width: 760px)').matches) box.scrollIntoView();
}
for (const id of ['kind', 'mine', 'task']) at(id).addEventListener('change', () => { browsing.page = 0; list(); });
at('text').addEventListener('input', () => {
  clearTimeout(browsing.timer);
  browsing.timer = setTimeout(() => { browsing.page = 0; list(); }, 200);
});
at('filters').addEventListener('submit', event => event.preventDefault());
at('before').addEventListener('click', () => { browsing.page -= 1; list(); });
at('after').addEventListener('click', () => { browsing.page += 1; list(); });
for (const name of ['questions', 'ask']) {
  at(`tab-${name}`).addEventListener('click', () => {
    for (const other of ['questions', 'ask']) {
      at(other).hidden = other !== name;
      at(`tab-${other}`).setAttribute('aria-selected', String(other === name));
    }
  });
}
list();
