'use strict';
const state = JSON.parse(document.getElementById('state').textContent);
const at = id => document.getElementById(id);
function make(name, parent, text, kind) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (kind) node.className = kind;
  parent.append(node);
  return node;
}
async function request(path, options) {
  let answer;
  try { answer = await fetch(path, options); } catch { throw new Error('explore has ended: start it again and reload this page'); }
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.error || `status ${answer.status}`);
  return content;
}
const post = (path, body, type) => request(path,
  {method: 'POST', body, headers: {'X-Zoo-Token': state.token, 'Content-Type': type}});
function say(text, bad) {
  at('status').textContent = text;
  at('status').className = bad ? 'error' : 'soft';
}
const asking = {image: null, busy: false, again: null};

function choose(number, sample) {
  asking.image = number;
  at('image').src = `/image?n=${number}`;
  at('image').hidden = false;
  for (const button of at('samples').children) button.setAttribute('aria-pressed', String(button.dataset.n === String(number)));
  at('reference').textContent = sample && sample.reference ? `Reference answer: ${sample.reference}` : '';
  if (sample) at('question').value = sample.question;
  at('panels').replaceChildren();
}
async function upload(file) {
  if (!file) return;
  if (file.size > 32 * 2 ** 20) { say('The file has more than 32 MiB.', true); return; }
  say('Uploading ...');
  try {
    const {image} = await post('/upload', file, 'application/octet-stream');
    choose(image);
    say('Type a question, press Ask.');
    at('question').focus();
  } catch (error) { say(error.message, true); }
}
const budget = () => at('budget').value + state.budget.unit;
const selected = () => [...at('selectors').children].filter(b => b.getAttribute('aria-pressed') === 'true').map(b => b.textContent);

function draw(answer, whole) {
  const old = new Map([...at('panels').children].map(p => [p.dataset.key, p]));
  const panels = answer.panels.map(panel => {
    const key = panel.arm.split(' @')[0], before = old.get(key);
    old.delete(key);
    const box = document.createElement('article');
    box.className = 'panel';
    box.dataset.key = key;
    make('h3', box, panel.arm);
    if (panel.figure) {
      const image = make('img', box);
      image.src = panel.figure;
      image.alt = `kept tokens of ${panel.arm}`;
    }
    if (panel.problem) { make('p', box, panel.problem, 'soft'); return box; }
    const said = before && before.querySelector('.response');
    if (whole) make('p', box, panel.response || '(empty)', 'response');
    else if (said) make('p', box, said.textContent, 'response old');
    const layers = panel.layers === null ? '' : ` (layer mean ${panel.layers})`;
    make('p', box, `${panel.kept} of ${answer.n_visual} tokens${layers}`, 'soft');
    const times = panel.select_ms === null ? [] : [`selector ${panel.select_ms} ms`];
    if (panel.generate_ms !== null) times.push(`prefill + decode ${panel.generate_ms} ms`);
    make('p', box, times.join(', '), 'soft');
    return box;
  });
  at('panels').replaceChildren(...panels, ...(whole ? [] : old.values()));  // layer selectors wait for the response
  const notes = [`vision encoder ${answer.vision_ms} ms`];
  if (answer.unknown.length) notes.push(`words that ${state.model} does not know: ${answer.unknown.join(', ')}`);
  if (answer.note) notes.push(answer.note);
  say(notes.join('. '));
}
async function ask(respond) {
  if (asking.busy) { asking.again = Math.max(asking.again || 0, respond ? 2 : 1); return; }
  if (asking.image === null) { say('Choose an image, or upload one.', true); return; }
  asking.busy = true;
  if (respond) { say('Asking ... (the first question loads the model)'); at('go').disabled = true; }
  try {
    const given = {image: asking.image, question: at('question').value, selectors: selected(), budget: budget(),
      new_tokens: Number(at('tokens').value), respond};
    draw(await post('/ask', JSON.stringify(given), 'application/json'), respond);
  } catch (error) { say(error.message, true); }
  asking.busy = false;
  at('go').disabled = false;
  const again = asking.again;
  asking.again = null;
  if (again) ask(again === 2);
}

state.samples.forEach((sample, number) => {
  const button = make('button', at('samples'));
  button.type = 'button';
  button.dataset.n = number;
  button.title = sample.question;
  const image = make('img', button);
  image.src = `/image?n=${number}`;
  image.alt = `example ${number + 1}`;
  image.loading = 'lazy';
  button.addEventListener('click', () => choose(number, sample));
});
for (const {name, summary} of state.selectors) {
  const button = make('button', at('selectors'), name);
  button.type = 'button';
  button.title = summary;
  button.setAttribute('aria-pressed', String(state.chosen.includes(name)));
  button.addEventListener('click', () => button.setAttribute('aria-pressed', String(button.getAttribute('aria-pressed') !== 'true')));
}
Object.assign(at('budget'), {min: state.budget.low, max: state.budget.high, value: state.budget.start});
const shownBudget = () => { at('kept').textContent = budget(); };
shownBudget();
at('budget').addEventListener('input', () => { shownBudget(); if (at('panels').children.length) ask(false); });
at('budget').addEventListener('change', () => { if (at('panels').children.length) ask(true); });
at('form').addEventListener('submit', event => { event.preventDefault(); ask(true); });
at('file').addEventListener('change', () => { upload(at('file').files[0]); at('file').value = ''; });
document.addEventListener('paste', event => { if (event.clipboardData.files.length) upload(event.clipboardData.files[0]); });
for (const name of ['dragover', 'dragleave', 'drop']) {
  at('drop').addEventListener(name, event => {
    event.preventDefault();
    at('drop').classList.toggle('over', name === 'dragover');
    if (name === 'drop') upload(event.dataTransfer.files[0]);
  });
}
if (state.samples.length) choose(0, state.samples[0]);
document.documentElement.dataset.ready = 'yes';
