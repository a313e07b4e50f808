// Figures for people. What is not known is "-".

const known = v => typeof v === "number" && Number.isFinite(v);

export function duration(seconds) {
  if (!known(seconds) || seconds < 0) return "-";
  const s = Math.round(seconds);
  const two = n => String(n).padStart(2, "0");
  if (seconds < 9.95) return `${seconds.toFixed(1)}s`;
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m${two(s % 60)}s`;
  if (s < 86400) return `${Math.floor(s / 3600)}h${two(Math.floor(s / 60) % 60)}m`;
  return `${Math.floor(s / 86400)}d${two(Math.floor(s / 3600) % 24)}h`;
}

export function bytes(n) {
  if (!known(n) || n < 0) return "-";
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let u = 0;
  while (n >= 999.5 && u < units.length - 1) { n /= 1000; u++; }
  return `${n.toFixed(u > 0 && n < 99.95 ? 1 : 0)} ${units[u]}`;
}

export function count(n) {
  return known(n) ? Math.round(n).toLocaleString("en-US") : "-";
}

export function percent(v) {
  return known(v) ? `${(v * 100).toFixed(1)} %` : "-";
}

// 0.4123, 12.35, 1834, 1.2e-5
export function figure(v) {
  if (!known(v)) return "-";
  const a = Math.abs(v);
  if (a !== 0 && (a < 1e-3 || a >= 1e7)) return v.toExponential(2);
  return v.toFixed(a < 10 ? 4 : a < 100 ? 2 : a < 1000 ? 1 : 0);
}

export function rate(v) {
  return known(v) && v > 0 ? (v < 10 ? v.toFixed(2) : count(v)) : "-";
}

export function points(v) {
  return known(v) ? `${v >= 0 ? "+" : ""}${(v * 100).toFixed(1)}` : "-";
}

export function interval(pair) {
  return Array.isArray(pair) && pair.every(known) ? `${(pair[0] * 100).toFixed(1)} - ${(pair[1] * 100).toFixed(1)} %` : "-";
}

export function clock(iso) {
  if (!iso) return "-";
  const t = new Date(iso), now = new Date();
  const time = t.toLocaleTimeString("en-GB");
  return t.toDateString() === now.toDateString() ? time : `${t.toLocaleDateString("en-CA")} ${time}`;
}

export function age(iso) {
  return iso ? duration(Math.max(0, (Date.now() - new Date(iso)) / 1000)) : "-";
}
