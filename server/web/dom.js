// Elements without markup: text is only ever text, so nothing that a job or a worker is called can run.

// h("p", {class: "x", onclick: f}, "text", element, [more]); null and false children are left out.
export function h(tag, props, ...children) {
  const e = document.createElement(tag);
  for (const [key, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) e.addEventListener(key.slice(2), value);
    else e.setAttribute(key, value === true ? "" : String(value));
  }
  e.append(...children.flat(9).filter(c => c !== null && c !== undefined && c !== false));
  return e;
}

// A table. columns: [{title, number, cell: row => text or element}], the first cell heads its row; id: row => its
// id. On a phone each row becomes a card of titles and values, without those that are not known.
export function table(caption, columns, rows, empty, id) {
  if (rows.length === 0 && empty) return h("p", {class: "empty"}, empty);
  const cell = (column, row, first) => {
    const value = column.cell(row) ?? "-";
    const kinds = [column.number && "number", column.wide && "wide", (value === "-" || value === "") && "none"];
    return h(first ? "th" : "td", {scope: first ? "row" : null, "data-title": column.title,
      class: kinds.filter(Boolean).join(" ") || null}, value);
  };
  return h("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": caption},
    h("table", {class: "stack"},
      h("caption", {class: "hidden"}, caption),
      h("thead", null, h("tr", null, columns.map(c =>
        h("th", {scope: "col", class: c.number ? "number" : null}, c.title)))),
      h("tbody", null, rows.map(row =>
        h("tr", {id: id?.(row)}, columns.map((c, i) => cell(c, row, i === 0)))))));
}

// Facts as a list of terms: [[term, value], ...]; empty ones are left out.
export function facts(list) {
  return h("dl", {class: "facts"}, list.filter(([, v]) => v !== null && v !== undefined && v !== "" && v !== "-")
    .map(([k, v]) => h("div", null, h("dt", null, k), h("dd", null, v))));
}

// Figures side by side: [[title, value], ...].
export function tiles(list) {
  return h("div", {class: "tiles"}, list.map(([title, value]) =>
    h("div", {class: "tile"}, h("strong", null, String(value)), h("span", null, title))));
}

export function card(title, ...children) {
  return h("section", {class: "card"}, h("h2", null, title), children);
}

export function link(job, text) {
  return h("a", {href: `#/job/${job}`}, text ?? job);
}

// state, or "paused" where a user has
export function badge(summary) {
  const word = summary.paused && !isOver(summary) ? "paused" : summary.state;
  return h("span", {class: `badge ${word}`}, word);
}

export function isOver(summary) {
  return ["succeeded", "failed", "cancelled"].includes(summary.state);
}

// Can one node become the other? A style set by a script cannot be copied under the policy.
function alike(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName && (a.id || "") === (b.id || "") &&
    !a.hasAttribute?.("style") && !b.hasAttribute?.("style");
}

function become(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== Node.ELEMENT_NODE) { old.data = fresh.data; return; }
  for (const {name} of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const {name, value} of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  take(old, fresh);
}

function take(old, fresh) {
  let at = old.firstChild;
  for (const f of [...fresh.childNodes]) {
    const o = f.id ? [...old.childNodes].find(c => c.id === f.id) : at;
    if (!o || !alike(o, f)) { old.insertBefore(f, at); continue; }
    if (o === at) at = at.nextSibling;
    else old.insertBefore(o, at);
    become(o, f);
  }
  while (at) { const next = at.nextSibling; at.remove(); at = next; }
}

// Makes the children what an element has, changing only what differs: focus, scrolling and a selection stay. Those
// with an id keep their node wherever they move; handlers stay those of the first, so they must follow from the id.
export function fill(element, ...children) {
  take(element, h(element.tagName, null, ...children));
}
