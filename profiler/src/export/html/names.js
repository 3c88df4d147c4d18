// Names that fit: what a box has no room for is left out in the order in which it is missed least,
// first arguments and generics, then the path from its outer end.
//
// Names come from demanglers of many languages, so nothing here is a parser: what is not
// understood stays as it is.

const LEAST_LETTERS = 4;

// What compilers put behind a function that they copied or split.
const COPIES = /(?: \[clone [^\]]*\]|\.(?:isra|constprop|part|cold|warm|llvm|lto_priv|localalias)(?:\.\d+)*)+$/;
const OPERATOR = /operator(?:\(\)|\[\]|""\s?\w+|->\*?|<=>|<<=?|>>=?|\+\+|--|&&|\|\||[-+*/%^&|~!=<>]=?|,| (?:new|delete)(?:\[\])?|(?= ))/y;
// A dot within a path of Go belongs to the name of a host or a folder.
const MARK = /::|\.(?!\.|[^()[\]<>]*\/)|\//y;
// Last parts that say nothing without the one before: closures, numbers.
const IS_VAGUE = /^(?:[{<].*|(?:func|gowrap|deferwrap)?\d+)$/;
// V8 puts how the code came to be before a function, and where it is written behind it; CPython
// does so for its trampolines.
const SCRIPT = /^(?:(?:JS|LazyCompile|Function|Eval|Script|Code):[*~^+']?([^ ]+) |py::([^:]+):\/?).*/;

// The position behind the bracket that closes the one here.
function closing(name, from) {
  let depth = 0;
  for (let at = from; at < name.length; at++) {
    if ('([{<'.includes(name[at])) depth++;
    else if (')]}'.includes(name[at]) || (name[at] === '>' && !'-='.includes(name[at - 1]))) depth--;
    if (depth === 0) return at + 1;
  }
  return name.length;
}

// `T` of `<T as Trait>`.
function implementor(inner) {
  for (let at = 0; at < inner.length; at++) {
    if ('([{<'.includes(inner[at])) at = closing(inner, at) - 1;
    else if (inner.startsWith(' as ', at)) return inner.slice(0, at);
  }
  return inner;
}

// The parts of a name, outermost first, each behind the mark that leads to it; without what
// arguments and generics say.
class Parts {
  constructor(name) {
    this.name = name;
    this.at = 0;
    this.list = [];
    this.part = { mark: '', text: '' };
    this.hasArguments = false;
    this.hasSpace = false;
    while (this.at < name.length && this.step());
    this.close('');
    // A name of several words that is no C++ or Java: all of it is the name.
    if (!this.list.length || (this.hasSpace && !this.hasArguments)) this.list = [{ mark: '', text: name }];
  }

  // Takes what is next; gives whether there may be more.
  step() {
    const { name, at, part } = this;
    const operator = /[\w$]$/.test(part.text) ? null : this.match(OPERATOR);
    if (operator !== null) {
      part.text += operator;
      if (operator === 'operator') this.takeTo('(');
      return true;
    }
    const mark = part.text === '' && name[at] === '.' ? null : this.match(MARK);
    if (mark !== null) this.close(mark);
    else if ('([{<'.includes(name[at])) this.bracket();
    else if (name[at] === ' ') return this.space();
    else {
      part.text += name[at];
      this.at++;
    }
    return true;
  }

  match(pattern) {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.name);
    if (!found) return null;
    this.at += found[0].length;
    return found[0];
  }

  takeTo(end) {
    const found = this.name.indexOf(end, this.at);
    const to = found < 0 ? this.name.length : found;
    this.part.text += this.name.slice(this.at, to);
    this.at = to;
  }

  bracket() {
    const { name, at, part } = this;
    this.at = closing(name, at);
    const text = name.slice(at, this.at);
    const isFirst = part.text === '';
    if (text[0] === '{') part.text += text;
    else if (isFirst && text[0] === '<' && part.mark === '' && name.startsWith('::', this.at)) {
      this.list.push(...new Parts(implementor(text.slice(1, -1))).list);
    } else if (isFirst && !(text[0] === '<' && part.mark === '::')) part.text = text;
    else if (text[0] === '(' && part.text !== 'decltype') this.hasArguments = true;
  }

  // Before a function a space ends what it gives back, behind its arguments it ends all.
  space() {
    if (this.hasArguments) return false;
    // Templates of operators have one before what they are made for.
    if (/operator\W+$/.test(this.part.text) && this.name[this.at + 1] === '<') {
      this.at = closing(this.name, this.at + 1);
      return true;
    }
    this.hasSpace = true;
    this.at++;
    this.list = [];
    this.part = { mark: '', text: '' };
    return true;
  }

  close(mark) {
    if (this.part.text !== '') this.list.push(this.part);
    this.part = { mark, text: '' };
  }
}

// The ways to say a name, each shorter than the one before.
function shorter(name) {
  const told = SCRIPT.exec(name);
  const { list } = new Parts(told ? told[1] || told[2] : name.replace(COPIES, ''));
  const ways = [];
  for (let first = 0; first < list.length; first++) {
    if (first > 0 && list.slice(first).every((part) => IS_VAGUE.test(part.text))) break;
    ways.push(list.slice(first).map((part, at) => (at > 0 ? part.mark : '') + part.text).join(''));
  }
  return ways;
}

// What is written where there is room for so many letters; nothing if that would say nothing.
function fitting(name, ways, room) {
  if (name.length <= room) return name;
  const whole = ways.find((way) => way.length <= room);
  if (whole !== undefined) return whole;
  return room > LEAST_LETTERS ? `${(ways[ways.length - 1] || name).slice(0, room - 1)}…` : '';
}
