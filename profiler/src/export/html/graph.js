// The drawing: which boxes are seen where, and their colours. One canvas as large as what is seen
// of it, so that a graph may be of any height.

const ROW = 19;
const GAP = 1;
const LEAST = 0.5;
// What was searched for is at least this wide, so that an eye finds it.
const LEAST_HIT = 2;
const FONT = '12px ui-monospace, "SF Mono", "Cascadia Mono", "DejaVu Sans Mono", Menlo, Consolas, monospace';

// Hue and saturation of each kind, as in KINDS; labels have none.
const HUES = [[43, 82], [16, 72], [130, 42], [186, 46], [215, 6]];

class Graph {
  constructor(holder, canvas, spacer) {
    Object.assign(this, { holder, canvas, spacer });
    this.context = canvas.getContext('2d');
    this.context.font = FONT;
    this.letter = this.context.measureText('0').width;
    this.boxes = [];
    this.rows = [];
    this.colours = new Map();
    this.ways = new Map();
    this.matches = null;
    this.hit = null;
    this.over = null;
    this.selected = null;
    this.isAsked = false;
    holder.addEventListener('scroll', () => { this.remember(); this.ask(); });
  }

  // Draws these from now on: `parts` are trees that grow up or down from the same row.
  show(profile, parts) {
    Object.assign(this, { profile, parts, over: null, selected: null, hit: null });
    this.layOut();
    this.holder.scrollTop = this.middle();
    this.remember();
  }

  // Where the row is on the screen that the graph grows from.
  baseOnScreen() {
    return this.base * ROW + this.offset - this.holder.scrollTop;
  }

  // A browser may scroll by itself between a change of the window and our answer to it.
  remember() {
    if (this.parts && this.holder.clientHeight === this.height) this.kept = this.baseOnScreen();
  }

  // The window has changed: the base keeps its distance from the edge that it stands on, or its
  // place between the edges if the graph grows both ways.
  fit() {
    const { height, kept } = this;
    this.layOut();
    let wanted = kept;
    if (this.parts.length > 1) wanted = Math.max(0, (kept + ROW) * this.height / height - ROW);
    else if (this.parts[0].up) wanted = kept + this.height - height;
    this.holder.scrollTop += Math.round(this.baseOnScreen() - wanted);
    this.kept = wanted;
  }

  // What is zoomed to is seen at first, with a little of what called it.
  middle() {
    const [{ tree, zoom, up }] = this.parts;
    if (this.parts.length > 1) return this.base * ROW - this.holder.clientHeight / 2;
    const depth = tree.depth[zoom];
    const nearest = Math.max(0, depth - 6);
    if (!up) return nearest * ROW;
    return (this.base - nearest + 1) * ROW + this.offset - this.holder.clientHeight;
  }

  layOut() {
    this.width = this.holder.clientWidth;
    this.height = this.holder.clientHeight;
    this.boxes = [];
    this.rests = [];
    let [above, below] = [0, 0];
    this.parts.forEach((part, number) => {
      const deepest = this.layOutPart(part, number > 0);
      if (part.up) above = Math.max(above, deepest);
      else below = Math.max(below, deepest);
    });
    const content = (above + below + 1) * ROW;
    const height = Math.max(content, this.holder.clientHeight);
    const isUpOnly = this.parts.length === 1 && this.parts[0].up;
    // A low graph that grows up stands on the ground.
    this.offset = isUpOnly ? height - content : 0;
    this.base = above;
    this.rows = Array.from({ length: above + below + 1 }, () => []);
    for (const box of this.boxes) {
      box.row = above + (box.part.up ? -box.depth : box.depth);
      this.rows[box.row].push(box);
    }
    for (const row of this.rows) row.sort((a, b) => a.x - b.x);
    for (const rest of this.rests) rest.row = above + (rest.part.up ? -rest.depth : rest.depth);
    this.spacer.style.height = `${height - this.holder.clientHeight}px`;
    this.resize();
    this.ask();
  }

  // The boxes of one tree that are wide enough to be seen; gives the depth of the deepest.
  layOutPart(part, leavesOutRoot) {
    const { tree, zoom } = part;
    const whole = tree.total[zoom];
    if (!(whole > 0)) return 0;
    const scale = this.width / whole;
    const put = (node, x, width) => this.boxes.push({ part, node, x, width, depth: tree.depth[node], isAbove: false });
    for (let node = tree.parent[zoom]; node >= 0; node = tree.parent[node]) {
      put(node, 0, this.width);
      this.boxes[this.boxes.length - 1].isAbove = true;
    }
    let deepest = tree.depth[zoom];
    const todo = [zoom];
    while (todo.length) {
      const node = todo.pop();
      const width = tree.total[node] * scale;
      deepest = Math.max(deepest, tree.depth[node]);
      if (node !== WHOLE || !leavesOutRoot) put(node, (tree.start[node] - tree.start[zoom]) * scale, width);
      for (const [at, child] of tree.children[node].entries()) {
        if (tree.total[child] * scale < LEAST) {
          deepest = Math.max(deepest, this.putRest(part, node, at, scale));
          break;
        }
        todo.push(child);
      }
    }
    return deepest;
  }

  // Children from this one on are too narrow for boxes of their own: one grey box says so.
  putRest(part, node, at, scale) {
    const { tree, zoom } = part;
    const first = tree.children[node][at];
    const self = tree.total[node] - tree.children[node].reduce((sum, child) => sum + tree.total[child], 0);
    const width = (tree.start[node] + tree.total[node] - self - tree.start[first]) * scale;
    const x = (tree.start[first] - tree.start[zoom]) * scale;
    const depth = tree.depth[node] + 1;
    const hidden = tree.children[node].slice(at);
    // No node has this number: a rest is none.
    this.rests.push({ part, node: -1 - node, x, width, depth, scale, hidden });
    return depth;
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [this.holder.clientWidth, this.holder.clientHeight];
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.ratio = ratio;
  }

  ask() {
    if (this.isAsked) return;
    this.isAsked = true;
    requestAnimationFrame(() => { this.isAsked = false; this.draw(); });
  }

  draw() {
    const { context, holder } = this;
    if (!this.parts) return;
    this.readTheme();
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.clearRect(0, 0, this.width, holder.clientHeight);
    context.font = FONT;
    context.textBaseline = 'middle';
    const top = holder.scrollTop - this.offset;
    const first = Math.max(0, Math.floor(top / ROW));
    const last = Math.min(this.rows.length - 1, Math.floor((top + holder.clientHeight) / ROW));
    const seen = this.rows.slice(first, last + 1).flat();
    const isHit = (box) => this.matches !== null && this.matches(box.part.tree.key[box.node]);
    for (const box of seen) if (!isHit(box)) this.drawBox(box, box.row * ROW - top, false);
    for (const rest of this.rests) {
      if (rest.row >= first && rest.row <= last) this.drawRest(rest, rest.row * ROW - top);
    }
    // Last, as they may be wider than what they stand for.
    for (const box of seen) if (isHit(box)) this.drawBox(box, box.row * ROW - top, true);
    if (this.hit) this.drawFrame(this.hit, this.hit.row * ROW - top);
  }

  // Around the one of what was searched for that was jumped to.
  drawFrame(hit, y) {
    this.context.strokeStyle = this.ink;
    this.context.lineWidth = 2;
    this.context.strokeRect(hit.x - 1, y - 1, Math.max(hit.width, LEAST_HIT) + 2, ROW + 1);
  }

  drawRest(rest, y) {
    const { context } = this;
    const matched = this.matchedIn(rest);
    if (rest.width < 2 && matched === 0) return;
    const text = `${rest.hidden.length} narrower`;
    context.fillStyle = this.shade(-1, 0);
    context.globalAlpha = this.faded;
    context.fillRect(rest.x, y, rest.width - GAP, ROW - GAP);
    context.globalAlpha = 1;
    if (matched > 0) {
      context.fillStyle = this.matchColour;
      context.fillRect(rest.x, y, Math.max(matched * rest.scale, LEAST_HIT), ROW - GAP);
    }
    context.fillStyle = this.quiet;
    if (rest.width > text.length * this.letter + 8) context.fillText(text, rest.x + 4, y + ROW / 2);
  }

  // How much of what is too narrow here matches, itself or by what is below it.
  matchedIn(rest) {
    const { within } = rest.part;
    return this.matches === null ? 0 : rest.hidden.reduce((sum, node) => sum + within[node], 0);
  }

  drawBox(box, y, isMatch) {
    const { context } = this;
    const key = box.part.tree.key[box.node];
    const name = this.profile.nameOf(key);
    const isFaded = box.isAbove || (this.matches !== null && !isMatch);
    const width = Math.max(box.width - (box.width > 3 ? GAP : 0), isMatch ? LEAST_HIT : LEAST);
    context.globalAlpha = isFaded ? this.faded : 1;
    context.fillStyle = isMatch ? this.matchColour : this.colourOf(key, name);
    context.fillRect(box.x, y, width, ROW - GAP);
    context.globalAlpha = 1;
    const isOver = this.isSame(box, this.over);
    if (isOver || this.isSame(box, this.selected)) {
      context.strokeStyle = this.ink;
      context.lineWidth = isOver ? 1 : 2;
      context.strokeRect(box.x + 0.5, y + 0.5, Math.max(width - 1, 1), ROW - GAP - 1);
    }
    const room = Math.floor((width - 8) / this.letter);
    if (room < 2) return;
    context.fillStyle = isMatch ? this.matchInk : isFaded ? this.quiet : this.boxInk;
    const text = fitting(name, this.waysOf(key, name), room);
    context.fillText(text, box.x + 4, y + ROW / 2, width - 8);
  }

  // The shorter ways to say what a box is; a label or a mark has none.
  waysOf(key, name) {
    let ways = this.ways.get(key);
    if (!ways) {
      const isCode = this.profile.functionOf(key) >= 0 && this.profile.kindOf(key) !== CUT;
      ways = isCode ? shorter(name) : [];
      this.ways.set(key, ways);
    }
    return ways;
  }

  isSame(box, other) {
    return other !== null && box.node === other.node && box.part === other.part;
  }

  readTheme() {
    const isDark = getComputedStyle(this.holder).colorScheme === 'dark'
      || (getComputedStyle(this.holder).colorScheme !== 'light' && matchMedia('(prefers-color-scheme: dark)').matches);
    if (isDark === this.isDark) return;
    this.isDark = isDark;
    this.colours.clear();
    this.ink = isDark ? '#ffffff' : '#1f2328';
    this.boxInk = isDark ? '#f1f1ee' : '#22201c';
    this.quiet = isDark ? '#a5abb3' : '#767c84';
    this.faded = isDark ? 0.45 : 0.38;
    this.matchColour = isDark ? '#a83fb5' : '#e38af0';
    this.matchInk = isDark ? '#ffffff' : '#22201c';
  }

  // The kind gives the hue; the name shifts it a little, so that neighbours are told apart and a
  // function looks alike everywhere.
  colourOf(key, name) {
    let colour = this.colours.get(key);
    if (!colour) {
      let hash = 2166136261;
      for (let at = 0; at < name.length; at++) hash = Math.imul(hash ^ name.charCodeAt(at), 16777619);
      colour = this.shade(this.profile.kindOf(key), ((hash >>> 8) % 1000) / 1000 - 0.5);
      this.colours.set(key, colour);
    }
    return colour;
  }

  shade(kind, shift) {
    const [hue, saturation] = HUES[kind] || [215, 14];
    const light = this.isDark ? 36 + shift * 9 : (kind < 0 ? 86 : 76) + shift * 9;
    return `hsl(${hue + shift * 13 - (this.isDark ? 5 : 0)} ${this.isDark ? saturation * 0.55 : saturation}% ${light}%)`;
  }

  // The box under a place on the screen.
  at(clientX, clientY) {
    const area = this.holder.getBoundingClientRect();
    const y = clientY - area.top + this.holder.scrollTop - this.offset;
    const row = this.rows[Math.floor(y / ROW)];
    if (!row) return null;
    const x = clientX - area.left;
    let [low, high] = [0, row.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (row[middle].x <= x) low = middle + 1;
      else high = middle;
    }
    const box = row[low - 1];
    return box && x <= box.x + Math.max(box.width, 2) ? box : null;
  }

  hover(box) {
    if (box === this.over || (box && this.over && this.isSame(box, this.over))) return;
    this.over = box;
    this.canvas.classList.toggle('over', box !== null);
    this.ask();
  }

  // All that is shown of what was searched for, the heaviest first.
  hits() {
    if (this.matches === null) return [];
    const boxes = this.boxes.filter((box) => !box.isAbove && box.node >= 0 && this.matches(box.part.tree.key[box.node]));
    const rests = this.rests.filter((rest) => this.matchedIn(rest) > 0);
    const weight = (box) => (box.hidden ? this.matchedIn(box) : box.part.tree.total[box.node]);
    return [...boxes, ...rests].sort((a, b) => weight(b) - weight(a) || a.x - b.x || a.depth - b.depth || a.row - b.row);
  }

  // Jumps to the next of them, or by -1 to the one before; gives which it is, and of how many.
  jump(by) {
    const hits = this.hits();
    if (!hits.length) return null;
    const last = hits.findIndex((hit) => this.isSame(hit, this.hit));
    const next = last < 0 ? (by > 0 ? 0 : hits.length - 1) : (last + by + hits.length) % hits.length;
    this.hit = hits[next];
    this.reveal(this.hit);
    return { hit: this.hit, number: next + 1, count: hits.length };
  }

  // Goes from the selected box to the one beside it; gives the new one.
  go(direction) {
    const from = this.selected && this.boxes.find((box) => this.isSame(box, this.selected));
    let to;
    if (!from) {
      to = this.boxes.find((box) => box.node === this.parts[0].zoom) || this.boxes[0];
    } else if (direction === 'up' || direction === 'down') {
      const isAway = (direction === 'up') === from.part.up;
      const row = this.rows[from.row + (direction === 'up' ? -1 : 1)] || [];
      const { tree } = from.part;
      const isNext = (box) => box.part === from.part && (isAway ? tree.parent[box.node] === from.node : tree.parent[from.node] === box.node);
      to = row.find(isNext) || (from.depth <= 1 ? row.find((box) => box.depth === 0 || from.depth === 0) : undefined);
    } else {
      const row = this.rows[from.row];
      to = row[row.indexOf(from) + (direction === 'right' ? 1 : -1)];
    }
    if (to) this.select(to);
    return to || null;
  }

  select(box) {
    this.selected = box;
    this.reveal(box);
  }

  reveal(box) {
    const y = box.row * ROW + this.offset;
    if (y < this.holder.scrollTop) this.holder.scrollTop = y - ROW;
    else if (y + ROW > this.holder.scrollTop + this.holder.clientHeight) this.holder.scrollTop = y + 2 * ROW - this.holder.clientHeight;
    this.ask();
  }
}
