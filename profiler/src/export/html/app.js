// The page: what is asked for, and what is shown of it. What is asked for also stands in the
// address behind `#`, so that a view can be sent along with the file.

const $ = (id) => document.getElementById(id);

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== null) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

const count = (number) => number.toLocaleString('en-US');
const short = (path) => path.slice(path.lastIndexOf('/') + 1);

class App {
  constructor(profile) {
    this.profile = profile;
    this.graph = new Graph($('graph'), $('canvas'), $('spacer'));
    const { icicle, reversed } = profile.about.flame;
    const busy = profile.labels.findIndex((label) => label.name === 'comm' && label.values.length > 1);
    this.asked = {
      view: 'graph', icicle, reversed, search: '', around: -1, path: [],
      split: busy, focus: profile.labels.map(() => null), sort: 'self', rows: 200,
    };
    this.initial = JSON.stringify(this.asked);
    this.readAddress();
    this.fillHeader();
    this.fillFocus();
    this.listen();
    this.rebuild();
  }

  // ---- what the file says of itself

  fillHeader() {
    const { about } = this.profile;
    $('title').textContent = about.title;
    const facts = [[this.amount(about.total), about.event]];
    if (about.unit === 'nanoseconds' && about.period > 0) {
      facts.push([`${+(1e9 / about.period).toFixed(1)}`, 'Hz']);
      facts.push([seconds(about.total * about.period), about.kind]);
    }
    if (about.duration_ns > 0) facts.push([seconds(about.duration_ns), 'recorded']);
    const lost = /\blost=(\d+)/.exec(about.comments.join(' '));
    if (lost) facts.push([count(+lost[1]), 'lost', +lost[1] > 0 ? 'bad' : '']);
    if (about.time_ns > 0) {
      const start = new Date(about.time_ns / 1e6);
      facts.push(['', start.toISOString().slice(0, 19).replace('T', ' ') + ' UTC']);
    }
    for (const [number, word, kind] of facts) {
      const fact = element('li', null, kind ? { class: kind } : {});
      fact.append(element('b', number), ` ${word}`);
      $('facts').append(fact);
    }
    $('comments').textContent = about.comments.join('\n');
    $('about-button').hidden = about.comments.length === 0;
  }

  // A choice for each label that tells samples apart, and which of them gets a row in the graph.
  fillFocus() {
    const { labels } = this.profile;
    labels.forEach((label, at) => {
      if (label.values.length < 2) return;
      const select = element('select', null, { 'data-label': at });
      select.append(element('option', `all (${label.values.length})`, { value: '' }));
      label.values.forEach((value, number) => select.append(element('option', String(value) || `no ${label.name}`, { value: number })));
      select.addEventListener('change', () => {
        this.asked.focus[at] = select.value === '' ? null : label.values[+select.value];
        this.asked.path = [];
        this.rebuild();
      });
      const name = element('label', `${label.name} `);
      name.append(select);
      $('focus').append(name);
    });
    const many = labels.map((label, at) => [label, at]).filter(([label]) => label.values.length > 1);
    if (!many.length) return;
    const select = element('select', null, { id: 'split' });
    select.append(element('option', 'nothing', { value: -1 }));
    for (const [label, at] of many) select.append(element('option', label.name, { value: at }));
    select.addEventListener('change', () => { this.asked.split = +select.value; this.asked.path = []; this.rebuild(); });
    const name = element('label', 'split by ');
    name.append(select);
    $('focus').append(name);
  }

  // ---- from what is asked for to what is shown

  rebuild() {
    const { asked, profile } = this;
    this.groups = profile.chosen(asked.focus);
    this.total = this.groups.reduce((sum, group) => {
      for (let raw = group.first; raw < group.end; raw++) sum += profile.rawSelf[raw];
      return sum;
    }, 0);
    const isAround = asked.around >= 0;
    if (isAround) {
      const [callers, callees] = profile.around(this.groups, asked.around);
      this.parts = [{ tree: callees, up: false, zoom: WHOLE }, { tree: callers, up: true, zoom: WHOLE }];
    } else {
      const tree = profile.tree(this.groups, asked.split, asked.reversed);
      this.parts = [{ tree, up: !asked.icicle, zoom: tree.nodeAt(asked.path) }];
    }
    this.find();
    this.show();
  }

  show() {
    const { asked } = this;
    const isEmpty = !(this.total > 0);
    const isTable = asked.view === 'table' && !isEmpty;
    $('table').hidden = !isTable;
    $('graph').hidden = isTable || isEmpty;
    $('empty').hidden = !isEmpty;
    $('empty').textContent = this.profile.about.total > 0 ? 'No samples have these labels.' : this.profile.about.period > 0 ? 'No samples: nothing ran while this was recorded.' : 'No samples.';
    const press = (id, is) => $(id).setAttribute('aria-pressed', is);
    press('view-graph', !isTable);
    press('view-table', isTable);
    press('icicle', asked.icicle);
    press('reversed', asked.reversed);
    $('icicle').disabled = $('reversed').disabled = isTable || asked.around >= 0;
    if ($('search').value !== asked.search) $('search').value = asked.search;
    for (const select of $('focus').querySelectorAll('select[data-label]')) {
      const at = +select.dataset.label;
      select.value = asked.focus[at] == null ? '' : this.profile.labels[at].values.indexOf(asked.focus[at]);
    }
    if ($('split')) $('split').value = asked.split;
    this.showPath();
    this.showLegend();
    this.hideTip();
    if (isTable) this.showTable();
    else if (!isEmpty) this.graph.show(this.profile, this.parts);
    this.writeAddress();
  }

  showPath() {
    const { asked, profile, parts: [part] } = this;
    const line = $('path');
    line.replaceChildren();
    const link = (text, act, title) => {
      const button = element('button', text, { type: 'button', title: title || text });
      button.addEventListener('click', act);
      line.append(button);
      return button;
    };
    $('reset').disabled = asked.around < 0 && asked.path.length === 0;
    if (asked.view === 'table') {
      line.append(element('i', 'every function · line: where most of its own samples were · click one for its callers and callees'));
      return;
    }
    if (asked.around >= 0) {
      link('all', () => this.reset());
      line.append(element('i', '›'), element('b', profile.functions[asked.around].name), element('i', `callers above, callees below · ${this.share(part.tree.total[WHOLE])}`));
      return;
    }
    if (!asked.path.length) {
      const what = asked.reversed ? 'innermost functions, and from there to their callers' : 'callers, and from there to what they called';
      line.append(element('i', `all · ${what}`));
      return;
    }
    const nodes = [];
    for (let node = part.zoom; node >= 0; node = part.tree.parent[node]) nodes.unshift(node);
    nodes.forEach((node, at) => {
      const name = profile.nameOf(part.tree.key[node]);
      if (at) line.append(element('i', '›'));
      if (node === part.zoom) line.append(element('b', name), element('i', this.share(part.tree.total[node])));
      else link(name, () => this.zoom(node));
    });
    const wanted = profile.functionOf(part.tree.key[part.zoom]);
    if (wanted >= 0) link('callers and callees', () => this.goAround(wanted), 'Everything that called it, and that it called (s)').classList.add('do');
    line.scrollLeft = line.scrollWidth;
  }

  showLegend() {
    const legend = $('legend');
    legend.replaceChildren();
    this.graph.readTheme();
    const { leaves, cut } = this.profile.byKind(this.groups);
    const add = (kind, words, sum, title) => {
      const entry = element('span', null, kind === CUT ? { title, class: 'apart' } : { title });
      const dot = element('span', null, { class: 'dot' });
      dot.style.background = this.graph.shade(kind, 0);
      entry.append(dot, `${words} `, element('b', percent(sum, this.total)));
      legend.append(entry);
    };
    legend.append(element('span', 'of all:', { title: 'Of all samples that are chosen, whatever the graph is zoomed to' }));
    leaves.forEach((sum, kind) => {
      if (kind !== CUT && this.profile.frameKind.includes(kind)) add(kind, KINDS[kind], sum, 'Samples whose innermost frame is of this kind');
    });
    if (leaves[CUT] > 0) legend.append(element('span', `no function ${percent(leaves[CUT], this.total)}`, { title: 'Samples of which no frame is known' }));
    if (cut > 0) add(CUT, 'of these, stack cut:', cut, 'Samples whose stack was cut: its outermost frame says why');
    legend.append(element('span', 'click: zoom · shift-click: callers and callees · /: search · ?: keys', { class: 'hint' }));
  }

  showTable() {
    const { asked, profile, total } = this;
    const order = {
      self: (a, b) => b.self - a.self || b.total - a.total,
      total: (a, b) => b.total - a.total || b.self - a.self,
      name: (a, b) => (profile.functions[a.function].name < profile.functions[b.function].name ? -1 : 1),
    }[asked.sort];
    let rows = profile.table(this.groups);
    if (this.test) rows = rows.filter((row) => this.test(profile.functions[row.function].name));
    rows.sort((a, b) => order(a, b) || a.function - b.function);
    const table = element('table', null);
    const head = element('tr', null);
    const columns = [['self', 'Self', 2], ['total', 'Total', 2], ['name', 'Function', 1], [null, 'Line', 1], [null, 'Object', 1]];
    for (const [key, title, span] of columns) {
      const cell = element('th', null, { colspan: span, scope: 'col', ...(span > 1 ? { class: 'number' } : {}) });
      head.append(cell);
      if (!key) {
        cell.textContent = title;
        cell.className = 'plain';
        continue;
      }
      const button = element('button', asked.sort === key ? `${title} ${key === 'name' ? '↑' : '↓'}` : title, { type: 'button' });
      button.addEventListener('click', () => { asked.sort = key; this.showTable(); this.writeAddress(); });
      if (asked.sort === key) cell.setAttribute('aria-sort', key === 'name' ? 'ascending' : 'descending');
      cell.append(button);
    }
    table.append(head);
    for (const row of rows.slice(0, asked.rows)) table.append(this.tableRow(row, total));
    $('table').replaceChildren(table);
    if (rows.length > asked.rows) {
      const more = element('button', `${count(rows.length - asked.rows)} more`, { type: 'button', class: 'more' });
      more.addEventListener('click', () => { asked.rows += 2000; this.showTable(); });
      $('table').append(more);
    }
  }

  tableRow(row, total) {
    const code = this.profile.functions[row.function];
    const line = element('tr', null);
    for (const number of [row.self, row.total]) {
      line.append(element('td', this.amount(number), { class: 'number' }), element('td', percent(number, total), { class: 'number' }));
    }
    const name = element('td', null, { class: 'name' });
    const dot = element('span', null, { class: 'dot', title: KINDS[row.kind] });
    dot.style.background = this.graph.shade(row.kind, 0);
    const button = element('button', code.name, { type: 'button', title: `${code.name}\n\nclick: callers and callees` });
    button.addEventListener('click', () => this.goAround(row.function));
    name.append(dot, button);
    const place = code.file && (row.line > 0 ? `${code.file}:${row.line}` : code.file);
    line.append(name);
    for (const [text, kind] of [[place, 'place'], [code.object, 'object']]) {
      const cell = element('td', null, { class: kind, title: text });
      cell.append(element('bdi', text));
      line.append(cell);
    }
    return line;
  }

  share(part) {
    return `${this.amount(part)} · ${percent(part, this.total)}`;
  }

  // A number of what is counted. What stands for nothing but itself is told in its unit.
  amount(number) {
    const { unit, period } = this.profile.about;
    if (period > 0) return count(number);
    return { nanoseconds: seconds, bytes }[unit]?.(number) ?? count(number);
  }

  // ---- search

  find() {
    const { test, isExpression } = matcher(this.asked.search);
    this.test = test;
    $('search').classList.toggle('bad', !isExpression);
    $('search').title = isExpression ? '' : 'No regular expression: looked for as it stands';
    const known = new Map();
    this.graph.matches = test && ((key) => {
      if (!known.has(key)) known.set(key, test(this.profile.nameOf(key)));
      return known.get(key);
    });
    this.graph.hit = null;
    this.matched = '';
    if (test) this.match();
    $('matched').textContent = this.matched;
  }

  match() {
    for (const part of this.parts) part.within = part.tree.matched(this.graph.matches);
    // Callers and callees are of the same samples, so each is told apart.
    const sum = Math.max(...this.parts.map((part) => part.within[part.zoom]));
    const whole = this.parts[0].tree.total[this.parts[0].zoom];
    const isPart = this.asked.around >= 0 || this.asked.path.length > 0;
    this.matched = `matched ${percent(sum, whole)}${isPart ? ' of this' : ''}`;
  }

  // To the next of what was searched for, or by -1 to the one before.
  jump(by) {
    const found = $('graph').hidden ? null : this.graph.jump(by);
    if (!found) return;
    const { hit, number, count: all } = found;
    $('matched').textContent = `${this.matched} · ${count(number)} of ${count(all)}`;
    this.pointAt(hit);
  }

  // ---- what one can do

  zoom(node) {
    this.asked.path = this.parts[0].tree.pathTo(node);
    this.parts[0].zoom = node;
    this.find();
    this.show();
  }

  goAround(wanted) {
    Object.assign(this.asked, { around: wanted, view: 'graph' });
    this.rebuild();
    $('graph').focus({ preventScroll: true });
  }

  reset() {
    Object.assign(this.asked, { around: -1, path: [] });
    this.rebuild();
  }

  open(box, wantsAround) {
    const key = box.part.tree.key[box.node];
    const wanted = this.profile.functionOf(key);
    if (wanted >= 0 && (wantsAround || this.asked.around >= 0)) this.goAround(wanted);
    else if (this.asked.around < 0) this.zoom(box.node);
  }

  setSearch(text) {
    this.asked.search = text;
    this.find();
    if (this.asked.view === 'table') this.showTable();
    else this.graph.ask();
    this.writeAddress();
  }

  toggle(what) {
    if (this.asked.around >= 0) return;
    this.asked[what] = !this.asked[what];
    if (what === 'reversed') this.asked.path = [];
    this.rebuild();
  }

  view(view) {
    this.asked.view = view;
    this.show();
  }

  // ---- the box under the pointer

  showTip(box, x, y) {
    const { profile } = this;
    const { tree, zoom } = box.part;
    if (box.hidden) {
      this.showRestTip(box, x, y);
      return;
    }
    const key = tree.key[box.node];
    const code = profile.functions[profile.functionOf(key)];
    const list = element('dl', null);
    const row = (name, text, more) => {
      const cell = element('dd', text);
      if (more) cell.append(' ', element('span', more));
      list.append(element('dt', name), cell);
    };
    const total = tree.total[box.node];
    const ofZoom = zoom !== WHOLE && !box.isAbove ? `${percent(total, tree.total[zoom])} of the zoomed` : '';
    row('total', this.share(total), ofZoom);
    if (tree.self[box.node] > 0 || (!this.asked.reversed && box.part.tree === this.parts[0].tree)) row('self', this.share(tree.self[box.node]));
    if (code) {
      const lines = profile.linesOf(tree, box.node);
      const place = (line) => (line > 0 ? `${short(code.file)}:${line}` : short(code.file));
      if (code.file) {
        const [[first], ...rest] = lines;
        row('file', first > 0 ? `${code.file}:${first}` : code.file);
        if (rest.length) row('lines', lines.slice(0, 4).map(([line, sum]) => `${place(line)} ${percent(sum, total)}`).join(', '), rest.length > 3 ? `and ${rest.length - 3} more` : '');
      }
      if (code.object) row('object', code.object);
      row('kind', KINDS[profile.kindOf(key)]);
    }
    this.putTip(profile.nameOf(key), list, x, y);
  }

  // Of what has no box there is what it is together, and what it is searched for.
  showRestTip(rest, x, y) {
    const { tree, within } = rest.part;
    const list = element('dl', null);
    const sum = rest.hidden.reduce((all, node) => all + tree.total[node], 0);
    const matched = rest.hidden.filter((node) => within[node] > 0);
    list.append(element('dt', 'total'), element('dd', this.share(sum)));
    list.append(element('dt', 'matched'), element('dd', this.share(this.graph.matchedIn(rest))));
    const nameOf = (key) => this.graph.waysOf(key, this.profile.nameOf(key))[0] || this.profile.nameOf(key);
    const names = [...new Set(matched.map((node) => nameOf(tree.key[node])))];
    const more = names.length > 3 ? ` and ${names.length - 3} more` : '';
    list.append(element('dt', 'by way of'), element('dd', names.slice(0, 3).join(', ') + more));
    this.putTip(`${count(rest.hidden.length)} too narrow to be drawn here`, list, x, y);
  }

  putTip(title, list, x, y) {
    const tip = $('tip');
    tip.replaceChildren(element('span', title, { class: 'name' }), list);
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(8, Math.min(x + 14, innerWidth - width - 8))}px`;
    tip.style.top = `${y + 18 + height > innerHeight ? Math.max(8, y - height - 12) : y + 18}px`;
  }

  // Shows what a box is where no pointer is.
  pointAt(box) {
    const area = $('graph').getBoundingClientRect();
    this.showTip(box, area.left + Math.max(box.x, 0), area.top + box.row * ROW + this.graph.offset - $('graph').scrollTop);
  }

  hideTip() {
    $('tip').hidden = true;
    this.graph.hover(null);
  }

  // ---- keys, mouse, address

  listen() {
    const click = (id, act) => $(id).addEventListener('click', act);
    click('view-graph', () => this.view('graph'));
    click('view-table', () => this.view('table'));
    click('icicle', () => this.toggle('icicle'));
    click('reversed', () => this.toggle('reversed'));
    click('reset', () => this.reset());
    click('about-button', () => $('about').showModal());
    click('help-button', () => $('help').showModal());
    click('theme', () => {
      document.documentElement.dataset.theme = this.graph.isDark ? 'light' : 'dark';
      this.graph.isDark = undefined;
      this.show();
    });
    $('search').addEventListener('input', () => this.setSearch($('search').value));
    const canvas = $('canvas');
    canvas.addEventListener('mousemove', (event) => {
      const box = this.graph.at(event.clientX, event.clientY);
      this.graph.hover(box);
      if (box) this.showTip(box, event.clientX, event.clientY);
      else $('tip').hidden = true;
    });
    canvas.addEventListener('mouseleave', () => this.hideTip());
    canvas.addEventListener('click', (event) => {
      const box = this.graph.at(event.clientX, event.clientY);
      if (box) this.open(box, event.shiftKey);
    });
    new ResizeObserver(() => { if (!$('graph').hidden && this.total > 0) this.graph.fit(); }).observe($('graph'));
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.show());
    addEventListener('keydown', (event) => this.onKey(event));
    addEventListener('hashchange', () => { if (location.hash !== this.address) { this.readAddress(); this.rebuild(); } });
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
    const isTyping = event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement;
    if (event.key === 'Escape') this.escape();
    else if (event.target === $('search') && event.key === 'Enter') this.jump(event.shiftKey ? -1 : 1);
    else if (isTyping) return;
    else if (event.key === '/') $('search').select();
    else if (!this.actOn(event.key)) return;
    event.preventDefault();
  }

  escape() {
    if (this.asked.search) {
      this.setSearch('');
      $('search').value = '';
    } else if (this.asked.around >= 0 || this.asked.path.length) this.reset();
    $('search').blur();
  }

  actOn(key) {
    const { graph } = this;
    const wanted = graph.over || graph.selected;
    const arrows = { ArrowUp: 'up', ArrowDown: 'down', ArrowLeft: 'left', ArrowRight: 'right' };
    if (key === '0') this.reset();
    else if (key === '?') $('help').showModal();
    else if (key === 'g' || key === 't') this.view(key === 'g' ? 'graph' : 'table');
    else if (key === 'i' || key === 'r') this.toggle(key === 'i' ? 'icicle' : 'reversed');
    else if ($('graph').hidden) return false;
    else if (key === 's' && wanted) this.open(wanted, true);
    else if (key === 'Enter' && graph.selected && document.activeElement.tagName !== 'BUTTON') this.open(graph.selected, false);
    else if (arrows[key]) {
      const box = graph.go(arrows[key]);
      if (box) this.pointAt(box);
    } else return false;
    return true;
  }

  writeAddress() {
    const { asked, profile } = this;
    const initial = JSON.parse(this.initial);
    const words = new URLSearchParams();
    for (const name of ['view', 'icicle', 'reversed', 'search', 'split', 'sort']) {
      if (asked[name] !== initial[name]) words.set(name, asked[name]);
    }
    if (asked.path.length) words.set('path', asked.path.join('.'));
    if (asked.around >= 0) words.set('function', profile.functions[asked.around].name);
    asked.focus.forEach((value, at) => { if (value != null) words.set(`label.${profile.labels[at].name}`, value); });
    this.address = words.size ? `#${words}` : '';
    try {
      history.replaceState(null, '', this.address || location.pathname + location.search);
    } catch {
      // Some browsers keep addresses of files as they are.
    }
  }

  readAddress() {
    const words = new URLSearchParams(location.hash.slice(1));
    const asked = JSON.parse(this.initial);
    for (const name of ['view', 'search', 'sort']) asked[name] = words.get(name) ?? asked[name];
    for (const name of ['icicle', 'reversed']) if (words.has(name)) asked[name] = words.get(name) === 'true';
    if (!['self', 'total', 'name'].includes(asked.sort)) asked.sort = 'self';
    const { profile } = this;
    if (words.has('split')) asked.split = profile.labels[+words.get('split')] ? +words.get('split') : -1;
    asked.path = (words.get('path') || '').split('.').filter(Boolean).map(Number);
    asked.around = words.has('function') ? profile.functions.findIndex((code) => code.name === words.get('function')) : -1;
    asked.focus = profile.labels.map((label) => {
      const value = words.get(`label.${label.name}`);
      return value === null ? null : label.values.find((known) => String(known) === value) ?? null;
    });
    this.asked = asked;
  }
}

function seconds(nanoseconds) {
  const value = nanoseconds / 1e9;
  return value < 1 ? `${+(value * 1000).toPrecision(3)} ms` : `${+value.toPrecision(4)} s`;
}

function bytes(number) {
  const scale = Math.min(4, Math.max(0, Math.floor(Math.log2(number) / 10)));
  return `${+(number / 1024 ** scale).toPrecision(4)} ${['B', 'KiB', 'MiB', 'GiB', 'TiB'][scale]}`;
}

addEventListener('DOMContentLoaded', () => {
  globalThis.app = new App(new Profile(JSON.parse($('data').textContent)));
});
