// One job, or a sweep: what it is, how it goes, what came of it.
import {follow, get} from "./api.js";
import {badge, card, facts, fill, h, isOver, link, table} from "./dom.js";
import {bytes, clock, count, duration, figure, interval, percent, points, rate} from "./format.js";
import {jobTable, progress, took} from "./jobs.js";
import curves from "./job_curves.js";
import evaluation from "./job_evaluation.js";

const EVENTS = 200; // shown at once
const LATE = 400;   // ms in which news gather before the job is asked for again

const names = {teacher: "teacher", student: "student", scratch: "from scratch"};

function head(job) {
  return facts([
    ["Job", h("code", null, job.job)], ["Sweep", job.sweep && link(job.sweep)], ["Values", job.label],
    ["Submitted", clock(job.submitted)], ["Started", clock(job.started)], ["Finished", clock(job.finished)],
    ["Took", took(job)], ["Workers", `${job.min_workers} to ${job.max_workers}`],
    ["Priority", job.priority || ""], ["Goes on from", job.continued && link(job.continued)],
    ["Runs again", job.replayed && link(job.replayed)], ["Slow workers", job.slow?.join(", ")],
    ["Quarantined", job.quarantined?.join(", ")],
  ]);
}

function now(p) {
  return facts([
    ["Stage", `${p.stage} ${p.stage_index + 1} of ${p.stage_count}`], ["Phase", p.phase],
    ["Epoch", p.epochs ? `${p.epoch} of ${p.epochs}` : ""], ["Loss", p.step ? figure(p.loss) : ""],
    ["Accuracy", percent(p.accuracy ?? undefined)], ["Images/s", rate(p.samples_per_second)],
    ["Learning rate", figure(p.learning_rate ?? undefined)], ["ETA", duration(p.eta_seconds ?? NaN)],
    ["Workers", String(p.workers)],
  ]);
}

function results(result) {
  const rows = Object.keys(names).filter(n => result?.[n]).map(n => ({name: n, ...result[n]}));
  if (rows.length === 0) return null;
  const student = result.student, than = other => student && result[other]
    ? `${points(student.accuracy - result[other].accuracy)} points from its ${other === "teacher" ? "teacher" : "from-scratch twin"}` : null;
  const said = [than("teacher"), than("scratch")].filter(Boolean).join(", ");
  return card("Result",
    table("Networks", [
      {title: "Network", cell: r => names[r.name]}, {title: "Model", cell: r => r.model},
      {title: "Accuracy", number: true, cell: r => percent(r.accuracy)},
      {title: "95 % interval", number: true, cell: r => interval(r.interval)},
      {title: "Test, best version", number: true, cell: r => percent(r.test_best?.accuracy)},
      {title: "Agreement", number: true, cell: r => percent(r.agreement)},
      {title: "Parameters", number: true, cell: r => count(r.parameters)},
      {title: "Size", number: true, cell: r => bytes(r.bytes)},
      {title: "ms/image", number: true, cell: r => r.ms_per_image > 0 ? r.ms_per_image.toFixed(2) : "-"},
    ], rows),
    said && h("p", null, `The student is ${said}.`),
    result.bank && h("p", {class: "muted"}, `Logit bank: ${count(result.bank.served)} of ${count(result.bank.asked)} taken from it, ` +
      `${duration(result.bank.seconds_saved)} of teacher's time saved.`));
}

function stages(job) {
  return card("Stages", table("Stages", [
    {title: "Stage", cell: s => s.name}, {title: "State", cell: s => s.state},
    {title: "Steps", number: true, cell: s => s.steps ? `${count(s.committed)}/${count(s.steps)}` : "-"},
    {title: "Best accuracy", number: true, cell: s => percent(Math.max(...s.epochs.map(e => e.val_accuracy ?? -1), -1) >= 0
      ? Math.max(...s.epochs.map(e => e.val_accuracy ?? -1)) : undefined)},
    {title: "Time", number: true, cell: s => s.seconds ? duration(s.seconds) : "-"},
    {title: "Parameters", number: true, cell: s => s.parameters ? count(s.parameters) : "-"},
    {title: "From the bank", number: true, cell: s => s.bank_hits + s.teacher_forwards
      ? `${count(s.bank_hits)} of ${count(s.bank_hits + s.teacher_forwards)}` : "-"},
    {title: "Lost to faults", number: true, cell: s => s.lost_ms_all ? duration(s.lost_ms_all / 1000) : "-"},
    {title: "Digest", cell: s => s.digest ? h("code", null, s.digest.slice(0, 12)) : "-"},
    {title: "Fingerprint", cell: s => s.fingerprint ? h("code", null, s.fingerprint.slice(0, 12)) : "-"},
    {title: "Made by", cell: s => s.shared ? link(s.shared) : ""},
  ], job.stages));
}

function sweep(job) {
  const r = job.result;
  const ids = job.jobs.map(j => j.job);
  return [
    card("Jobs of the sweep",
      h("div", {class: "bar"}, ids.length > 1 && h("a", {class: "button", href: `#/compare/${ids.slice(0, 12).join(",")}`},
        `Compare ${Math.min(ids.length, 12)} jobs`)),
      jobTable(job.jobs, "Jobs of the sweep")),
    r?.groups && card("Groups", table("Groups over seeds", [
      {title: "Values", cell: g => g.label || "all"}, {title: "Jobs", number: true, cell: g => g.n},
      {title: "Accuracy", number: true, cell: g => percent(g.val_mean)},
      {title: "95 % interval", number: true, cell: g => interval(g.val_interval)},
      {title: "Difference from the twin", number: true, cell: g => points(g.difference_mean)},
      {title: "95 % interval", number: true, cell: g => interval(g.difference_interval)}, {title: "Gain", cell: g => g.gain},
    ], r.groups), r.best && h("p", null, "Best by validation: ", link(r.best))),
  ];
}

function eventList() {
  const items = h("ol", {class: "events", tabindex: 0, "aria-label": "Events, newest first"});
  items.add = e => {
    items.prepend(h("li", {class: e.kind}, h("time", {datetime: e.time}, clock(e.time)), h("span", {class: "kind"}, e.kind),
      h("span", null, e.worker ? `${e.worker}: ` : "", e.text)));
    while (items.childElementCount > EVENTS) items.lastElementChild.remove();
  };
  return items;
}

export default async function page(main, id, signal) {
  let job = await get(`jobs/${id}`, signal);
  if (signal.aborted) return;
  const title = h("h1"), reason = h("p"), top = h("div"), live = h("div"), outcome = h("div"), rest = h("div"), events = eventList();
  const plots = curves(job.job, signal), shown = evaluation(job.job, signal);
  const render = () => {
    document.title = `${job.name} ${job.state} - distilld`;
    fill(title, job.name, " ", badge(job));
    fill(reason, job.reason);
    reason.className = job.state === "failed" ? "problem" : "reason";
    reason.hidden = !job.reason;
    fill(top, head(job));
    fill(outcome, job.jobs ? sweep(job) : results(job.result));
    fill(rest, !job.jobs && stages(job));
    if (isOver(job)) fill(live);
    plots.update(job);
    if (job.artefacts.some(a => a.name === "evaluation.json")) shown.load();
  };
  main.replaceChildren(title, reason, live, card("Job", top), outcome, plots.element, rest, shown.element, card("Events", events),
    h("details", {class: "card"}, h("summary", null, "Job file as resolved"), h("pre", {tabindex: 0}, JSON.stringify(job.resolved, null, 2))),
    job.artefacts.length > 0 && h("p", {class: "muted"}, `Files: distill fetch ${job.job}`));
  render();
  let timer = null;
  const again = () => {
    timer ??= setTimeout(async () => {
      timer = null;
      try { job = await get(`jobs/${id}`, signal); } catch { return; }
      if (!signal.aborted) render();
    }, LATE);
  };
  signal.addEventListener("abort", () => clearTimeout(timer));
  let first = true;
  follow(`jobs/${job.job}/stream`, {
    event: e => {
      events.add(e);
      // What was stored before the page came is in it already.
      if (!first || !isOver(job)) again();
    },
    progress: ({progress: p}) => {
      first = false;
      fill(live, card("Now", progress(p), now(p)));
      plots.progress(p);
    },
    end: again,
  }, signal);
}
