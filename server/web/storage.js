// The coordinator: its disk, its logit bank, its version.
import {follow, get} from "./api.js";
import {card, facts, fill, h} from "./dom.js";
import {age, bytes, clock, count} from "./format.js";

const AGAIN = 5000;

function disk(info) {
  const free = info.free_bytes, least = info.min_free_bytes;
  const low = free !== null && free < least;
  return card("Disk of the state folder",
    low && h("p", {class: "problem", role: "alert"}, "There is less room than --min-free: jobs wait and nothing new is taken."),
    facts([["Free", bytes(free ?? undefined)], ["Kept for checkpoints and database", bytes(least)], ["Folder", h("code", null, info.state_dir)]]));
}

export default async function page(main, _, signal) {
  document.title = "Storage - distilld";
  const place = h("div");
  main.replaceChildren(h("h1", null, "Storage"), place);
  const look = async () => {
    const info = await get("info", signal);
    if (signal.aborted) return;
    fill(place, disk(info),
      card("Logit bank", info.bank.banks === 0 ? h("p", {class: "empty"}, "No bank was used since the coordinator started.")
        : facts([["Banks in use", count(info.bank.banks)], ["Logits", count(info.bank.records)], ["Size on disk", bytes(info.bank.bytes)]])),
      card("Coordinator", facts([["Version", info.version], ["Protocol", info.protocol], ["Starts on this folder", info.epoch],
        ["Started", `${clock(info.started)} (${age(info.started)} ago)`]])));
  };
  await look();
  const timer = setInterval(() => { if (!document.hidden) look().catch(() => {}); }, AGAIN);
  signal.addEventListener("abort", () => clearInterval(timer));
  follow("stream", {}, signal);
}
