// The coordinator's JSON API and its live streams.

export async function get(path, signal) {
  const answer = await fetch(`api/v1/${path}`, {signal});
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.error || `${path}: HTTP ${answer.status}`);
  return body;
}

const status = document.getElementById("live");

function say(word) {
  status.textContent = word;
  status.className = word;
}

// Follows a stream until the signal aborts. handlers: {event name: data => ...}; an `end` from the server
// closes it. Hidden pages let their stream go, since a browser keeps only a few per server.
export function follow(path, handlers, signal) {
  let source = null, last = 0;
  const close = () => { source?.close(); source = null; };
  const open = () => {
    if (source || signal.aborted || document.hidden) return;
    source = new EventSource(`api/v1/${path}${last ? `?from=${last + 1}` : ""}`);
    source.onopen = () => say("live");
    source.onerror = () => say(source?.readyState === EventSource.CLOSED ? "offline" : "reconnecting");
    for (const [name, handle] of Object.entries(handlers))
      source.addEventListener(name, e => {
        if (e.lastEventId) last = Math.max(last, Number(e.lastEventId));
        handle(JSON.parse(e.data));
      });
    source.addEventListener("end", () => { close(); say("complete"); });
  };
  const shown = () => (document.hidden ? close() : open());
  document.addEventListener("visibilitychange", shown, {signal});
  signal.addEventListener("abort", close);
  open();
}
