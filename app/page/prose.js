// Text of a model as elements: paragraphs, lists, headings, quotes, code, bold and italic. Never as HTML.
//
// A growing text is rendered again only from the block that has changed.

const FENCE = /^\s{0,3}(```+|~~~+)\s*([\w+#.-]*)\s*$/;
const ITEM = /^\s{0,3}(?:([-*+])|(\d{1,9})[.)])\s+(.*)$/;
const INLINE = /(`+)(.+?)\1|\*\*(?=\S)(.+?\S?)\*\*|__(?=\S)(.+?\S?)__|\*(?=\S)([^*]+?)\*/s;

/** Make `element` show `text`. */
export function render(element, text) {
  const blocks = split(text);
  blocks.forEach((block, i) => {
    const old = element.children[i];
    const source = JSON.stringify(block);
    if (old?.source === source) return;
    const fresh = build(block);
    fresh.source = source;
    if (old) old.replaceWith(fresh);
    else element.append(fresh);
  });
  while (element.children.length > blocks.length) element.lastChild.remove();
}

/** Blocks as plain values. A fence that is still open takes all that follows. */
function split(text) {
  const blocks = [];
  const lines = text.split("\n");
  for (let i = 0; i < lines.length; i += 1) {
    const line = lines[i];
    const fence = FENCE.exec(line);
    const item = ITEM.exec(line);
    const heading = /^(#{1,6})\s+(.*?)\s*#*$/.exec(line);
    if (!line.trim()) continue;
    if (fence) {
      const code = [];
      while (++i < lines.length && !lines[i].trim().startsWith(fence[1])) code.push(lines[i]);
      blocks.push({ kind: "code", text: code.join("\n") });
    } else if (heading) {
      blocks.push({ kind: heading[1].length > 2 ? "h4" : "h3", text: heading[2] });
    } else if (item) {
      const { items, next } = list(lines, i);
      blocks.push({ kind: item[1] ? "ul" : "ol", start: item[2], items });
      i = next - 1;
    } else if (line.startsWith(">")) {
      const quoted = [];
      while (i < lines.length && lines[i].startsWith(">")) quoted.push(lines[i++].replace(/^>\s?/, ""));
      blocks.push({ kind: "blockquote", text: quoted.join("\n") });
      i -= 1;
    } else {
      const words = [line];
      while (i + 1 < lines.length && isPlain(lines[i + 1])) words.push(lines[++i]);
      blocks.push({ kind: "p", text: words.join("\n") });
    }
  }
  return blocks;
}

function isPlain(line) {
  return Boolean(line.trim()) && !FENCE.test(line) && !ITEM.test(line) && !/^#{1,6}\s/.test(line) && !line.startsWith(">");
}

/** Items from line `i` on. A blank line between two of one kind does not end the list; indented lines belong to an item. */
function list(lines, i) {
  const items = [];
  const ordered = !ITEM.exec(lines[i])[1];
  for (; i < lines.length; i += 1) {
    const item = ITEM.exec(lines[i]);
    if (item && !item[1] === ordered) items.push(item[3]);
    else if (lines[i].trim() && !item && (/^\s{2,}/.test(lines[i]) || isPlain(lines[i])) && lines[i - 1].trim()) items[items.length - 1] += `\n${lines[i].trim()}`;
    else if (lines[i].trim() || ITEM.exec(lines[i + 1] ?? "") === null) break;
  }
  return { items, next: i };
}

function build(block) {
  if (block.kind === "code") {
    const pre = document.createElement("pre");
    const code = document.createElement("code");
    code.textContent = block.text;
    pre.tabIndex = 0; // it may scroll
    pre.append(code);
    return pre;
  }
  const element = document.createElement(block.kind);
  if (block.items) {
    if (block.start) element.start = Number(block.start);
    for (const text of block.items) {
      const item = document.createElement("li");
      item.append(...inline(text));
      element.append(item);
    }
  } else {
    element.append(...inline(block.text));
  }
  return element;
}

function inline(text) {
  const parts = [];
  let rest = text;
  for (let found = INLINE.exec(rest); found; found = INLINE.exec(rest)) {
    const [whole, ticks, code, bold, bolder, italic] = found;
    if (found.index) parts.push(...broken(rest.slice(0, found.index)));
    const element = document.createElement(ticks ? "code" : (bold ?? bolder) ? "strong" : "em");
    if (ticks) element.textContent = code;
    else element.append(...inline(bold ?? bolder ?? italic));
    parts.push(element);
    rest = rest.slice(found.index + whole.length);
  }
  if (rest) parts.push(...broken(rest));
  return parts;
}

/** A line break is one: models mean it, whatever Markdown says. */
function broken(text) {
  return text.split("\n").flatMap((line, i) => (i ? [document.createElement("br"), line] : [line]));
}
