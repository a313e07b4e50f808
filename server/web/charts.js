// Lines over steps, drawn by Chart.js (global `Chart`), in the page's colours.
import {h} from "./dom.js";

const probe = h("span", {class: "hidden", "aria-hidden": "true"});
document.body.append(probe);

// The value of a CSS colour as the theme has it now.
function color(name) {
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

const charts = new Set();
const SERIES = 8;
const DOTS = 40; // points of a line up to which each is marked

function dress(chart) {
  const {options, data} = chart;
  for (const axis of [options.scales.x, options.scales.y]) {
    axis.ticks.color = axis.title.color = color("muted");
    axis.grid.color = color("line");
  }
  options.plugins.legend.labels.color = color("text");
  data.datasets.forEach((set, i) => {
    set.borderColor = color(`c${(set.hue ?? i) % SERIES + 1}`);
    set.backgroundColor = options.scales.y.stacked
      ? set.borderColor.replace("rgb(", "rgba(").replace(")", ", 0.45)") : set.borderColor;
  });
}

export function redress() {
  for (const chart of charts) { dress(chart); chart.update("none"); }
}

// A chart in a figure. y: {title, percent, stacked, log, from}; figure.show([{label, points: [[x, y]], dots, hue}])
// draws or redraws it; without points the figure is hidden.
export function lines(title, y, signal) {
  const canvas = h("canvas", {role: "img", "aria-label": title});
  const box = h("figure", {class: "chart"}, h("figcaption", null, title), h("div", {class: "canvas"}, canvas));
  const ticks = v => y.percent ? `${Math.round(v * 1000) / 10} %` : Math.abs(v) > 0 && Math.abs(v) < 1e-3
    ? v.toExponential(0) : v.toLocaleString("en-US");
  const chart = new Chart(canvas, {
    type: "line",
    data: {datasets: []},
    options: {
      animation: false, responsive: true, maintainAspectRatio: false, parsing: false, normalized: true,
      interaction: {mode: "nearest", axis: "x", intersect: false},
      scales: {
        x: {type: "linear", title: {display: true, text: y.x || "step"}, grid: {}, ticks: {maxTicksLimit: 7}},
        y: {type: y.log ? "logarithmic" : "linear", stacked: Boolean(y.stacked), min: y.from, max: y.to,
            title: {display: Boolean(y.title), text: y.title}, grid: {}, ticks: {callback: ticks, maxTicksLimit: 6}},
      },
      plugins: {
        legend: {position: "bottom", labels: {boxWidth: 12, boxHeight: 2}},
        tooltip: {callbacks: {label: c => `${c.dataset.label}: ${y.percent ? `${(c.parsed.y * 100).toFixed(1)} %`
          : Number(c.parsed.y.toPrecision(4))}`, title: c => c.length ? `${y.x || "step"} ${c[0].parsed.x}` : ""}},
      },
    },
  });
  charts.add(chart);
  signal.addEventListener("abort", () => { charts.delete(chart); chart.destroy(); });
  box.show = series => {
    const shown = series.filter(s => s.points.length > 0);
    box.hidden = shown.length === 0;
    chart.data.datasets = shown.map(s => ({
      label: s.label, hue: s.hue, fill: y.stacked ? "stack" : false, borderWidth: 1.8,
      pointRadius: s.points.length === 1 || (s.dots && s.points.length <= DOTS) ? 3 : 0, pointHoverRadius: 4, tension: 0,
      data: s.points.map(([px, py]) => ({x: px, y: py})),
    }));
    dress(chart);
    chart.update("none");
    const last = shown.map(s => `${s.label} ${ticks(s.points.at(-1)[1])} at ${y.x || "step"} ${s.points.at(-1)[0]}`);
    canvas.setAttribute("aria-label", `${title}: ${last.join("; ")}`);
  };
  box.hidden = true;
  return box;
}

// Pairs [x, y] of two columns, without what is not known.
export function pairs(x, y) {
  return x.map((v, i) => [v, y[i]]).filter(([, v]) => typeof v === "number");
}
