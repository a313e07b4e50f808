// Jobs side by side: what was set differently, the student's curves, what came of them.
import {follow, get} from "./api.js";
import {lines, pairs} from "./charts.js";
import {badge, card, fill, h, isOver, link, table} from "./dom.js";
import {count, figure, interval, percent, points} from "./format.js";
import {took} from "./jobs.js";

const MOST = 12;
const AGAIN = 3000; // ms between two looks at jobs that run

const title = j => j.label || `${j.name} ${j.job.slice(0, 6)}`;
const student = j => j.stages.find(s => s.name === "distill") || j.stages.find(s => s.epochs.length > 0);

function flat(value, key = "", out = new Map()) {
  if (value && typeof value === "object" && !Array.isArray(value))
    for (const [k, v] of Object.entries(value)) flat(v, key ? `${key}.${k}` : k, out);
  else if (key) out.set(key, JSON.stringify(value));
  return out;
}

// Rows [key, values...] of what is not the same in all of them.
function differences(jobs) {
  const all = jobs.map(j => flat(j.resolved));
  const keys = [...new Set(all.flatMap(m => [...m.keys()]))].sort();
  return keys.filter(k => new Set(all.map(m => m.get(k))).size > 1)
    .map(k => ({key: k, values: all.map(m => (m.get(k) ?? "-").replace(/^"|"$/g, ""))}));
}

function results(jobs) {
  const best = j => student(j)?.epochs.reduce((a, e) => Math.max(a, e.val_accuracy ?? -1), -1);
  return table("Results", [
    {title: "Job", cell: j => link(j.job, title(j))}, {title: "State", cell: j => badge(j)},
    {title: "Student", number: true, cell: j => percent(j.result?.student?.accuracy)},
    {title: "95 % interval", number: true, cell: j => interval(j.result?.student?.interval)},
    {title: "Best so far", number: true, cell: j => percent(best(j) >= 0 ? best(j) : undefined)},
    {title: "Teacher", number: true, cell: j => percent(j.result?.teacher?.accuracy)},
    {title: "Twin", number: true, cell: j => percent(j.result?.scratch?.accuracy)},
    {title: "From its twin", number: true, cell: j => j.result?.student && j.result?.scratch
      ? points(j.result.student.accuracy - j.result.scratch.accuracy) : "-"},
    {title: "Loss", number: true, cell: j => figure(student(j)?.epochs.at(-1)?.train_loss ?? undefined)},
    {title: "Parameters", number: true, cell: j => count(student(j)?.parameters)},
    {title: "Took", number: true, cell: took},
  ], jobs);
}

// Two or more jobs of the list, by their boxes.
function choose(main, signal) {
  const form = h("form", {class: "card", onsubmit: e => {
    e.preventDefault();
    const ids = [...new FormData(form).getAll("job")].slice(0, MOST);
    if (ids.length > 1) location.hash = `#/compare/${ids.join(",")}`;
  }}, h("p", {class: "empty"}, "Loading"));
  main.replaceChildren(h("h1", null, "Compare"), form);
  get("jobs?limit=200", signal).then(({jobs}) => {
    const rows = jobs.filter(j => !j.children);
    fill(form, rows.length < 2 ? h("p", {class: "empty"}, "There are fewer than two jobs.") : [
      h("fieldset", null, h("legend", null, `Two to ${MOST} jobs`), rows.map(j => h("label", {class: "choice"},
        h("input", {type: "checkbox", name: "job", value: j.job}), ` ${j.label || j.name} `, h("code", null, j.job), " ", badge(j)))),
      h("button", {type: "submit", class: "button"}, "Compare")]);
  }).catch(error => { if (!signal.aborted) fill(form, h("p", {class: "problem", role: "alert"}, error.message)); });
}

export default async function page(main, list, signal) {
  document.title = "Compare - distilld";
  const ids = list.split(",").filter(Boolean).slice(0, MOST);
  if (ids.length < 2) { choose(main, signal); follow("stream", {}, signal); return; }
  const fetchAll = () => Promise.all(ids.map(id => get(`jobs/${id}`, signal)));
  let jobs = await fetchAll();
  if (signal.aborted) return;
  const accuracy = lines("Validation accuracy of the student", {percent: true, title: "share right"}, signal);
  const validation = lines("Validation loss", {title: "cross-entropy"}, signal);
  const training = lines("Training loss, mean of an epoch", {title: "loss"}, signal);
  const settings = h("div"), outcome = h("div");
  main.replaceChildren(h("h1", null, `${jobs.length} jobs side by side`), card("Results", outcome),
    card("Curves", h("div", {class: "charts"}, accuracy, validation, training)), card("What was set differently", settings));
  const render = () => {
    const series = key => jobs.map((j, i) => ({label: title(j), hue: i, dots: true,
      points: pairs(student(j)?.epochs.map(e => e.step) || [], student(j)?.epochs.map(e => e[key]) || [])}));
    accuracy.show(series("val_accuracy"));
    validation.show(series("val_loss"));
    training.show(series("train_loss"));
    fill(outcome, results(jobs));
    fill(settings, table("What was set differently", [{title: "Key", cell: r => h("code", null, r.key)},
      ...jobs.map((j, i) => ({title: title(j), cell: r => r.values[i]}))], differences(jobs), "Nothing: the jobs are alike."));
  };
  render();
  let looked = Date.now();
  follow("stream", {jobs: async () => {
    if (jobs.every(isOver) || Date.now() - looked < AGAIN) return;
    looked = Date.now();
    try { jobs = await fetchAll(); } catch { return; }
    if (!signal.aborted) render();
  }}, signal);
}
