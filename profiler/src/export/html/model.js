'use strict';
// The profile and what can be made of it: trees of merged stacks, and a table of functions.
// Nothing here touches the page.

// In the order in which frames.rs numbers them.
const KINDS = ['user', 'kernel', 'run-time code', 'inlined', 'cut stack'];
const CUT = 4;
const WHOLE = 0;

// Stacks merged by what their frames say. Node 0 is the whole; a parent comes before its children.
class Tree {
  constructor(keyCount) {
    this.keyCount = keyCount;
    this.key = [-1];
    this.parent = [-1];
    this.depth = [0];
    this.total = [0];
    this.self = [0];
    this.index = new Map();
    // What each node was merged from: lists of pieces, linked.
    this.first = [-1];
    this.pieceRaw = [];
    this.pieceWeight = [];
    this.pieceNext = [];
  }

  child(parent, key) {
    const at = parent * this.keyCount + key;
    let node = this.index.get(at);
    if (node === undefined) {
      node = this.key.length;
      this.index.set(at, node);
      this.key.push(key);
      this.parent.push(parent);
      this.depth.push(this.depth[parent] + 1);
      this.total.push(0);
      this.self.push(0);
      this.first.push(-1);
    }
    return node;
  }

  add(node, raw, weight) {
    this.total[node] += weight;
    this.pieceNext.push(this.first[node]);
    this.first[node] = this.pieceRaw.length;
    this.pieceRaw.push(raw);
    this.pieceWeight.push(weight);
  }

  // Sorts siblings, the heaviest first, and says where each begins.
  finish(nameOf) {
    const count = this.key.length;
    this.children = Array.from({ length: count }, () => []);
    for (let node = 1; node < count; node++) this.children[this.parent[node]].push(node);
    this.start = new Float64Array(count);
    for (let node = 0; node < count; node++) {
      const children = this.children[node];
      if (children.length > 1) {
        children.sort((a, b) => this.total[b] - this.total[a] || (nameOf(this.key[a]) < nameOf(this.key[b]) ? -1 : 1));
      }
      let start = this.start[node];
      for (const child of children) {
        this.start[child] = start;
        start += this.total[child];
      }
    }
    this.index = null;
    return this;
  }

  // Positions among siblings, from the whole to a node, and back.
  pathTo(node) {
    const path = [];
    for (; node > WHOLE; node = this.parent[node]) path.unshift(this.children[this.parent[node]].indexOf(node));
    return path;
  }

  nodeAt(path) {
    let node = WHOLE;
    for (const at of path) {
      if (this.children[node][at] === undefined) return node;
      node = this.children[node][at];
    }
    return node;
  }

  // How much of each node lies in nodes that match, each sample once: itself, or some below it.
  matched(matches) {
    const within = new Float64Array(this.key.length);
    for (let node = this.key.length - 1; node > WHOLE; node--) {
      if (matches(this.key[node])) within[node] = this.total[node];
      within[this.parent[node]] += within[node];
    }
    return within;
  }
}

class Profile {
  constructor(data) {
    this.about = data.about;
    const { strings, functions, frames, labels, groups } = data;
    this.functions = [];
    for (let at = 0; at < functions.length; at += 4) {
      const [name, file, object] = [0, 1, 2].map((part) => strings[functions[at + part]]);
      this.functions.push({ name, file, object, line: functions[at + 3] });
    }
    const column = (part) => Int32Array.from({ length: frames.length / 3 }, (_, at) => frames[at * 3 + part]);
    this.frameFunction = column(0);
    this.frameKind = column(1);
    this.frameLine = column(2);
    this.labels = labels.map((name, at) => ({ name, values: [...new Set(groups.map((group) => group.labels[at]))] }));
    for (const label of this.labels) label.values.sort((a, b) => (typeof a === 'number' ? a - b : a < b ? -1 : 1));
    // Keys of functions come first, then those of what labels say.
    this.labelKeys = [];
    this.labelKeyStart = this.functions.length * KINDS.length;
    this.readStacks(groups);
  }

  // One tree of frames a group, one after the other, each parent before its children.
  readStacks(groups) {
    const [parents, frames, selfs] = [[], [], []];
    this.groups = groups.map(({ labels, tree }) => {
      const first = parents.length;
      const path = [];
      for (let at = 0; at < tree.length; at += 3) {
        path.length -= tree[at];
        parents.push(path.length ? path[path.length - 1] : -1);
        path.push(frames.length);
        frames.push(tree[at + 1]);
        selfs.push(tree[at + 2]);
      }
      return { labels, first, end: parents.length };
    });
    this.rawParent = Int32Array.from(parents);
    this.rawFrame = Int32Array.from(frames);
    this.rawSelf = Float64Array.from(selfs);
    this.rawTotal = Float64Array.from(selfs);
    for (let raw = parents.length - 1; raw >= 0; raw--) {
      if (parents[raw] >= 0) this.rawTotal[parents[raw]] += this.rawTotal[raw];
    }
  }

  get keyCount() { return this.labelKeyStart + this.labels.reduce((sum, label) => sum + label.values.length, 0); }
  keyOf(raw) { const frame = this.rawFrame[raw]; return this.frameFunction[frame] * KINDS.length + this.frameKind[frame]; }
  functionOf(key) { return key >= 0 && key < this.labelKeyStart ? Math.floor(key / KINDS.length) : -1; }
  kindOf(key) { return key >= 0 && key < this.labelKeyStart ? key % KINDS.length : -1; }

  nameOf(key) {
    if (key < 0) return 'all';
    if (key < this.labelKeyStart) return this.functions[this.functionOf(key)].name;
    let at = key - this.labelKeyStart;
    for (const label of this.labels) {
      if (at < label.values.length) return typeof label.values[at] === 'number' ? `${label.name} ${label.values[at]}` : label.values[at] || `no ${label.name}`;
      at -= label.values.length;
    }
    return '';
  }

  labelKey(split, value) {
    let start = this.labelKeyStart;
    for (let at = 0; at < split; at++) start += this.labels[at].values.length;
    return start + this.labels[split].values.indexOf(value);
  }

  // The groups that say what is asked for: a value or null for each label.
  chosen(focus) {
    return this.groups.filter((group) => group.labels.every((value, at) => focus[at] == null || focus[at] === value));
  }

  // Stacks from the outermost frame, or reversed: from the innermost. `split` is a label that
  // gets a row of its own, or -1.
  tree(groups, split, reversed) {
    const tree = new Tree(this.keyCount);
    const merged = new Int32Array(this.rawParent.length);
    for (const group of groups) {
      const top = split < 0 ? WHOLE : tree.child(WHOLE, this.labelKey(split, group.labels[split]));
      for (let raw = group.first; raw < group.end; raw++) {
        const parent = this.rawParent[raw];
        if (parent < 0) {
          tree.total[WHOLE] += this.rawTotal[raw];
          if (top !== WHOLE) tree.total[top] += this.rawTotal[raw];
        }
        if (!reversed) {
          const node = tree.child(parent < 0 ? top : merged[parent], this.keyOf(raw));
          merged[raw] = node;
          tree.add(node, raw, this.rawTotal[raw]);
          tree.self[node] += this.rawSelf[raw];
        } else if (this.rawSelf[raw] > 0) {
          this.addCallers(tree, top, raw, this.rawSelf[raw]);
        }
      }
    }
    return tree.finish((key) => this.nameOf(key));
  }

  addCallers(tree, top, raw, weight) {
    let node = top;
    for (let at = raw; at >= 0; at = this.rawParent[at]) {
      node = tree.child(node, this.keyOf(at));
      tree.add(node, at, weight);
      if (at === raw) tree.self[node] += weight;
    }
  }

  // Where a function is and no caller of it is the same function.
  *outermost(groups, wanted) {
    for (const group of groups) {
      const within = new Set();
      for (let raw = group.first; raw < group.end; raw++) {
        if (within.has(this.rawParent[raw])) within.add(raw);
        else if (this.frameFunction[this.rawFrame[raw]] === wanted) {
          within.add(raw);
          yield [raw, group.end];
        }
      }
    }
  }

  // What called a function, and what it called: two trees whose whole is the function.
  around(groups, wanted) {
    const [callers, callees] = [new Tree(this.keyCount), new Tree(this.keyCount)];
    const merged = new Map();
    for (const [raw, end] of this.outermost(groups, wanted)) {
      const total = this.rawTotal[raw];
      for (const tree of [callers, callees]) {
        tree.key[WHOLE] = this.keyOf(raw);
        tree.add(WHOLE, raw, total);
      }
      if (this.rawParent[raw] >= 0) this.addCallers(callers, WHOLE, this.rawParent[raw], total);
      callees.self[WHOLE] += this.rawSelf[raw];
      merged.set(raw, WHOLE);
      for (let below = raw + 1; below < end && merged.has(this.rawParent[below]); below++) {
        const node = callees.child(merged.get(this.rawParent[below]), this.keyOf(below));
        merged.set(below, node);
        callees.add(node, below, this.rawTotal[below]);
        callees.self[node] += this.rawSelf[below];
      }
      merged.clear();
    }
    const nameOf = (key) => this.nameOf(key);
    return [callers.finish(nameOf), callees.finish(nameOf)];
  }

  // Self and total of every function that was seen, and the kind and line that most of it was.
  table(groups) {
    const rows = new Map();
    const met = new Int32Array(this.functions.length);
    for (const group of groups) {
      for (let raw = group.first; raw < group.end; raw++) {
        const frame = this.rawFrame[raw];
        const wanted = this.frameFunction[frame];
        let row = rows.get(wanted);
        if (!row) rows.set(wanted, row = { function: wanted, self: 0, total: 0, kinds: new Map(), lines: new Map() });
        row.self += this.rawSelf[raw];
        const weight = this.rawTotal[raw] + this.rawSelf[raw] * 1e-6;
        row.kinds.set(this.frameKind[frame], (row.kinds.get(this.frameKind[frame]) || 0) + weight);
        const line = this.frameLine[frame];
        const [own, all] = row.lines.get(line) || [0, 0];
        row.lines.set(line, [own + this.rawSelf[raw], all + this.rawTotal[raw]]);
      }
    }
    this.addTotals(groups, rows, met);
    for (const row of rows.values()) {
      row.kind = heaviest(row.kinds, (a, b) => a - b);
      row.line = heaviest(row.lines, (a, b) => a[0] - b[0] || a[1] - b[1]);
    }
    return [...rows.values()].sort((a, b) => b.self - a.self || b.total - a.total || a.function - b.function);
  }

  // Of a function that calls itself, a sample is one sample.
  addTotals(groups, rows, met) {
    for (const group of groups) {
      const open = [];
      for (let raw = group.first; raw < group.end; raw++) {
        while (open.length && open[open.length - 1] !== this.rawParent[raw]) {
          met[this.frameFunction[this.rawFrame[open.pop()]]]--;
        }
        const wanted = this.frameFunction[this.rawFrame[raw]];
        if (met[wanted]++ === 0) rows.get(wanted).total += this.rawTotal[raw];
        open.push(raw);
      }
      met.fill(0);
    }
  }

  // The lines that a node's samples were at, the heaviest first.
  linesOf(tree, node) {
    const lines = new Map();
    for (let at = tree.first[node]; at >= 0; at = tree.pieceNext[at]) {
      const line = this.frameLine[this.rawFrame[tree.pieceRaw[at]]];
      lines.set(line, (lines.get(line) || 0) + tree.pieceWeight[at]);
    }
    return [...lines].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
  }

  // Samples by the kind of their innermost frame, which is all of them, and how many of them have
  // a stack that was cut anywhere.
  byKind(groups) {
    const leaves = KINDS.map(() => 0);
    let cut = 0;
    for (const group of groups) {
      const isCut = new Set();
      for (let raw = group.first; raw < group.end; raw++) {
        const kind = this.frameKind[this.rawFrame[raw]];
        leaves[kind] += this.rawSelf[raw];
        if (kind === CUT && !isCut.has(this.rawParent[raw])) cut += this.rawTotal[raw];
        if (kind === CUT || isCut.has(this.rawParent[raw])) isCut.add(raw);
      }
    }
    return { leaves, cut };
  }
}

function heaviest(counts, order) {
  let best = null;
  for (const [value, count] of counts) {
    if (best === null || order(count, best[1]) > 0 || (order(count, best[1]) === 0 && value < best[0])) best = [value, count];
  }
  return best[0];
}

// A search as a test of names. What is no regular expression is looked for as it stands.
function matcher(text) {
  if (!text) return { test: null, isExpression: true };
  const isPlain = text === text.toLowerCase();
  try {
    const expression = new RegExp(text, isPlain ? 'i' : '');
    return { test: (name) => expression.test(name), isExpression: true };
  } catch {
    const lower = text.toLowerCase();
    return { test: (name) => name.toLowerCase().includes(lower), isExpression: false };
  }
}

const percent = (part, whole) => (part > 0 ? `${((100 * part) / whole).toFixed(part === whole ? 0 : 2)}%` : '0%');
