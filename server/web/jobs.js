// All jobs: where each stands, why it waits or failed, when it will be done.
import {follow} from "./api.js";
import {badge, fill, h, isOver, link, table, tiles} from "./dom.js";
import {age, clock, count, duration, figure, percent, rate} from "./format.js";

const chosen = new Set();

// Where a job stands, as a bar with words.
export function progress(p) {
  if (!p) return "-";
  const words = `${p.stage} ${p.stage_index + 1}/${p.stage_count}` + (p.phase !== "training" ? `, ${p.phase}` : "");
  if (!p.steps) return words;
  return h("div", {class: "progress"},
    h("progress", {max: p.steps, value: p.step, "aria-label": `${p.stage}: step ${p.step} of ${p.steps}`}),
    h("span", null, `${words}, step ${count(p.step)}/${count(p.steps)}`));
}

// From its start to its end, or until now.
export function took(job) {
  return duration(job.started ? (new Date(job.finished || Date.now()) - new Date(job.started)) / 1000 : NaN);
}

function choice(job) {
  return h("input", {type: "checkbox", id: `choose-${job.job}`, "aria-label": `compare ${job.name} ${job.job}`,
    checked: chosen.has(job.job), onchange: e => {
      e.target.checked ? chosen.add(job.job) : chosen.delete(job.job);
      button();
    }});
}

let bar;
function button() {
  const ids = [...chosen];
  fill(bar, h("a", {class: "button", id: "compare", href: `#/compare/${ids.join(",")}`, "aria-disabled": ids.length < 2,
    tabindex: ids.length < 2 ? -1 : null}, ids.length < 2 ? "Choose jobs to compare" : `Compare ${ids.length} jobs`));
}

export function jobTable(jobs, caption, choose) {
  return table(caption, [
    {title: "Job", cell: j => h("span", {class: j.sweep && choose ? "child" : null}, link(j.job, j.label || j.name),
      " ", h("code", null, j.job))},
    ...(choose ? [{title: "Compare", cell: choice}] : []),
    {title: "State", cell: j => badge(j)},
    {title: "Progress", cell: j => j.children ? `${j.children_over} of ${j.children} jobs are over` : progress(j.progress)},
    {title: "Loss", number: true, cell: j => figure(j.progress?.loss || undefined)},
    {title: "Accuracy", number: true, cell: j => percent(j.progress?.accuracy ?? undefined)},
    {title: "Images/s", number: true, cell: j => rate(j.progress?.samples_per_second)},
    {title: "ETA", number: true, cell: j => duration(j.progress?.eta_seconds ?? NaN)},
    {title: "Workers", number: true, cell: j => j.progress ? `${j.progress.workers} of ${j.max_workers}` : "-"},
    {title: "Took", number: true, cell: j => took(j)},
    {title: "Age", number: true, cell: j => h("time", {datetime: j.submitted, title: clock(j.submitted)}, age(j.submitted))},
    ...(jobs.some(j => j.reason) ? [{title: "Reason", wide: true, cell: j => j.reason || ""}] : []),
  ], jobs, "No job has been submitted yet: distill submit job.yaml", j => `job-${j.job}`);
}

function summary(jobs) {
  const tops = jobs.filter(j => !j.children);
  return tiles(["running", "queued", "succeeded", "failed", "cancelled"]
    .map(state => [state, tops.filter(j => j.state === state).length]));
}

export default async function page(main, _, signal) {
  document.title = "Jobs - distilld";
  const list = h("div"), top = h("div"), words = h("p", {class: "hidden", role: "status"});
  bar = h("div", {class: "bar"});
  main.replaceChildren(h("h1", null, "Jobs"), top, bar, list, words);
  button();
  let before = new Map();
  follow("stream", {
    jobs: ({jobs}) => {
      for (const j of jobs)
        if (before.has(j.job) && before.get(j.job) !== j.state) words.textContent = `${j.name} is ${j.state}`;
      before = new Map(jobs.map(j => [j.job, j.state]));
      for (const id of chosen) if (!before.has(id)) chosen.delete(id);
      const running = jobs.filter(j => !isOver(j) && !j.sweep).length;
      document.title = `${running ? `(${running}) ` : ""}Jobs - distilld`;
      fill(top, summary(jobs));
      fill(list, jobTable(jobs, "Jobs, newest first", true));
    },
  }, signal);
}
