// What the networks of a finished job do: who is taken for whom, and pictures with the guesses.
import {get} from "./api.js";
import {card, fill, h} from "./dom.js";
import {percent} from "./format.js";

const CLASSES = 64; // up to which a matrix is shown

function matrix(classes, network) {
  const most = network.confusion.map(row => Math.max(1, row.reduce((a, b) => a + b, 0)));
  const cell = (n, y, x) => {
    const td = h("td", {class: "number", title: `${n} of ${classes[y]} taken for ${classes[x]}`}, n || "");
    if (n) td.style.backgroundColor = `color-mix(in srgb, var(--${x === y ? "c3" : "c4"}) ${Math.round(60 * n / most[y])}%, transparent)`;
    return td;
  };
  return h("figure", null,
    h("figcaption", null, `${network.name} on ${network.split}: ${percent(network.correct / network.samples)} of ${network.samples}`),
    h("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": `Confusion matrix of ${network.name}`},
      h("table", {class: "matrix"},
        h("caption", {class: "hidden"}, `Rows are true classes, columns what ${network.name} said`),
        h("thead", null, h("tr", null, h("th", {scope: "col"}, "true \\ said"), classes.map(c => h("th", {scope: "col"}, c)))),
        h("tbody", null, network.confusion.map((row, y) =>
          h("tr", null, h("th", {scope: "row"}, classes[y]), row.map((n, x) => cell(n, y, x))))))));
}

function guesses(classes, sample, name) {
  const list = sample.guesses?.[name];
  if (!list) return null;
  const right = list[0]?.[0] === sample.label;
  return h("p", {class: right ? "right" : "wrong"}, h("strong", null, `${name} ${right ? "✓" : "✗"} `),
    list.map(([c, p]) => `${classes[c]} ${percent(p)}`).join(", "));
}

function picture(classes, sample) {
  const image = /^data:image\/(jpeg|png);base64,/.test(sample.picture || "") && h("img", {src: sample.picture, alt: sample.name});
  return h("li", null, image, h("div", null, h("p", {class: "muted"}, `${classes[sample.label]}: ${sample.name}`),
    ["teacher", "student", "scratch"].map(n => guesses(classes, sample, n))));
}

export default function evaluation(id, signal) {
  const element = h("div"), select = h("select", {id: "network"}), place = h("div");
  let asked = false;
  async function load() {
    if (asked) return;
    asked = true;
    let e;
    try { e = await get(`jobs/${id}/evaluation`, signal); } catch { asked = false; return; }
    const classes = e.classes || [], nets = (e.networks || []).filter(n => n.confusion && classes.length <= CLASSES);
    const show = () => { if (nets[select.value]) fill(place, matrix(classes, nets[select.value])); };
    select.replaceChildren(...nets.map((n, i) => h("option", {value: i}, `${n.name}, ${n.split}`)));
    select.value = Math.max(0, nets.findIndex(n => n.name === "student"));
    select.addEventListener("change", show);
    fill(element,
      nets.length > 0 && card("Who is taken for whom", h("label", {for: "network"}, "Network "), select, place),
      e.samples?.length > 0 && card("Pictures", h("ul", {class: "pictures"}, e.samples.map(s => picture(classes, s)))));
    show();
  }
  return {element, load};
}
