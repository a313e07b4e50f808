// A job's curves, one stage at a time: measured steps from the coordinator's memory, evaluations from its
// database, and what comes live.
import {get} from "./api.js";
import {lines, pairs} from "./charts.js";
import {card, fill, h} from "./dom.js";
import {bytes, duration, percent} from "./format.js";

const phases = ["compute", "wait", "release", "apply"];
const meaning = {
  compute: "until half of the units were in", wait: "until the last unit was in",
  release: "until all sums had left: evaluation, second runs, a full disk", apply: "until the new parameters were there",
};

// The stage that is looked at first: the running one, else the student's, else the last one that has curves.
function favourite(stages) {
  return (stages.find(s => s.state === "running") || stages.find(s => s.name === "distill") || stages.at(-1)).name;
}

function timeTable(measured) {
  if (!measured?.seconds) return null;
  return h("div", null,
    h("h3", null, "Where step time goes"),
    h("ul", {class: "shares"}, phases.map(p => h("li", null,
      h("meter", {max: 1, value: measured.phases[p] / measured.seconds, "aria-label": p}),
      h("strong", null, ` ${percent(measured.phases[p] / measured.seconds)} `), `${p}: ${meaning[p]}`))),
    h("p", {class: "muted"}, `${measured.steps} steps in ${duration(measured.seconds)} measured since the coordinator started; ` +
      `${bytes(measured.bytes_in)} in, ${bytes(measured.bytes_out)} out.`));
}

export default function curves(id, signal) {
  const plots = {
    loss: lines("Training loss", {title: "loss"}, signal),
    validation: lines("Validation loss", {title: "cross-entropy"}, signal),
    accuracy: lines("Accuracy", {title: "share right", percent: true}, signal),
    lr: lines("Learning rate", {title: "learning rate", from: 0}, signal),
    terms: lines("Shares of the loss's terms in the gradient", {percent: true, stacked: true, from: 0, to: 1}, signal),
    rate: lines("Throughput", {title: "images a second", from: 0}, signal),
    time: lines("Time of a step", {title: "seconds", stacked: true, from: 0}, signal),
  };
  const choice = h("div", {class: "tabs", role: "group", "aria-label": "Stage"}), time = h("div");
  const element = card("Curves", choice, h("div", {class: "charts"}, Object.values(plots)), time);
  let job = null, measured = new Map(), chosen = null, live = [], drawn = 0;

  function draw() {
    const stage = job.stages.find(s => s.name === chosen);
    if (!stage) return;
    const m = measured.get(chosen), c = m?.curve || {step: []};
    const at = stage.epochs.map(e => e.step), of = key => pairs(at, stage.epochs.map(e => e[key]));
    const column = key => pairs(c.step, c[key] || []);
    const last = c.step.at(-1) ?? -1, fresh = live.filter(p => p.stage === chosen && p.step > last);
    const more = key => fresh.filter(p => typeof p[key] === "number").map(p => [p.step, p[key]]);
    plots.loss.show([
      {label: "training", hue: 0, points: [...column("loss"), ...more("loss")]},
      {label: "mean between evaluations", hue: 2, dots: true, points: of("train_loss")}]);
    plots.validation.show([{label: "validation", hue: 1, dots: true, points: of("val_loss")}]);
    plots.accuracy.show([
      {label: "training", hue: 0, points: column("accuracy")},
      {label: "validation", hue: 1, dots: true, points: of("val_accuracy")},
      {label: "agreement with the teacher", hue: 2, dots: true,
       points: pairs(at, stage.epochs.map(e => e.val_agree === null ? null : e.val_agree / e.val_samples))}]);
    plots.lr.show([{label: "learning rate", hue: 4, dots: true, points: of("learning_rate")}]);
    plots.terms.show(stage.terms.length < 2 ? [] : stage.terms.map((term, k) => ({
      label: term, hue: k, points: pairs(at, stage.epochs.map(e => e.epoch || e.step ? e.shares[k] : null))})));
    plots.rate.show([{label: "images a second", hue: 2, points: [...column("samples_per_second"), ...more("samples_per_second")]}]);
    plots.time.show(phases.map((p, k) => ({label: p, hue: k, points: column(p)})));
    fill(time, timeTable(m));
    drawn = Date.now();
  }

  function tabs() {
    const stages = job.stages.filter(s => s.epochs.length > 0 || s.state === "running" || measured.has(s.name));
    element.hidden = stages.length === 0;
    if (stages.length === 0) return;
    if (!stages.some(s => s.name === chosen)) chosen = favourite(stages);
    fill(choice, stages.map(s => h("button", {type: "button", id: `stage-${s.name}`, "aria-pressed": String(s.name === chosen),
      onclick: () => { chosen = s.name; chose = true; tabs(); draw(); }}, s.name)));
  }
  let chose = false;

  async function update(news) {
    job = news;
    if (!job.stages?.length) { element.hidden = true; return; }
    try {
      const {stages} = await get(`jobs/${id}/steps`, signal);
      measured = new Map(stages.map(s => [s.name, s]));
    } catch { return; }
    if (signal.aborted) return;
    const running = job.stages.find(s => s.state === "running");
    if (!chose && running?.steps) chosen = running.name;
    live = live.filter(p => p.step > (measured.get(p.stage)?.curve.step.at(-1) ?? -1));
    tabs();
    draw();
  }

  return {
    element, update,
    progress(p) {
      if (!p.step || (live.at(-1)?.stage === p.stage && live.at(-1).step === p.step)) return;
      live.push(p);
      if (live.length > 2000) live = live.filter((_, i) => i % 2);
      if (job && Date.now() - drawn > 900) draw();
    },
  };
}
