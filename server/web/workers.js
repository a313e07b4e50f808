// The workers: what each does, how fast, on what machine; who is slow or was set aside.
import {follow} from "./api.js";
import {fill, h, link, table, tiles} from "./dom.js";
import {age, bytes, count} from "./format.js";

function summary(workers) {
  const sum = key => workers.reduce((a, w) => a + (w[key] || 0), 0);
  return tiles([["connected", workers.length], ["working", workers.filter(w => w.state === "working").length],
    ["threads", sum("threads")], ["units/s", sum("units_per_second").toFixed(1)], ["memory", bytes(sum("resident_bytes"))],
    ["slow units", sum("slow")]]);
}

// Workers that compute other numbers than most cannot work on one job together.
function machines(workers) {
  const kinds = new Map();
  for (const w of workers) kinds.set(w.numerics, [...(kinds.get(w.numerics) || []), w.name]);
  if (kinds.size < 2) return null;
  return h("p", {class: "problem"}, `${kinds.size} kinds of numeric fingerprints: a job runs on workers of one kind. `,
    [...kinds].map(([kind, names]) => `${kind.slice(0, 8)}: ${names.join(", ")}`).join("; "));
}

export default async function page(main, _, signal) {
  document.title = "Workers - distilld";
  const list = h("div"), top = h("div");
  main.replaceChildren(h("h1", null, "Workers"), top, list);
  follow("stream", {
    workers: ({workers}) => {
      fill(top, summary(workers), machines(workers));
      fill(list, table("Workers", [
        {title: "Worker", cell: w => w.name},
        {title: "State", cell: w => h("span", {class: `badge ${w.state}`}, w.state)},
        {title: "Job", cell: w => w.job ? link(w.job) : "-"},
        {title: "Units/s", number: true, cell: w => w.units_per_second ? w.units_per_second.toFixed(2) : "-"},
        {title: "Slow units", number: true, cell: w => w.slow ? h("strong", {class: "wrong"}, count(w.slow)) : "0"},
        {title: "Threads", number: true, cell: w => count(w.threads)},
        {title: "Memory", number: true, cell: w => bytes(w.resident_bytes ?? undefined)},
        {title: "Descriptors", number: true, cell: w => count(w.descriptors ?? undefined)},
        {title: "Fingerprint", cell: w => h("code", {title: w.numerics}, w.numerics.slice(0, 8))},
        {title: "Machine", cell: w => `${w.cpu}: ${w.blas}, ${w.isa}`}, {title: "Address", cell: w => w.address.replace(/^ipv[46]:/, "")},
        {title: "Seen", number: true, cell: w => h("time", {datetime: w.seen}, `${age(w.seen)} ago`)},
        {title: "Version", cell: w => w.version},
      ], workers, "No worker is connected: distill-worker --server HOST:PORT --data-root DIR", w => `worker-${w.name}`));
    },
  }, signal);
}
