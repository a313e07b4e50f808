// The dashboard: pages by the address's fragment (#/, #/job/ID, #/compare/ID,ID, #/workers, #/storage).
import {h} from "./dom.js";
import {redress} from "./charts.js";
import jobs from "./jobs.js";
import job from "./job.js";
import compare from "./compare.js";
import workers from "./workers.js";
import storage from "./storage.js";

const pages = {"": ["jobs", jobs], job: ["jobs", job], compare: ["compare", compare], workers: ["workers", workers],
               storage: ["storage", storage]};
const main = document.getElementById("main");
let leaving = new AbortController();

async function show(moved) {
  const [, name = "", rest = ""] = location.hash.split("/");
  const [tab, page] = pages[name] || pages[""];
  leaving.abort();
  leaving = new AbortController();
  const {signal} = leaving;
  for (const a of document.querySelectorAll("nav a"))
    a.dataset.page === tab ? a.setAttribute("aria-current", "page") : a.removeAttribute("aria-current");
  main.replaceChildren(h("p", {class: "empty"}, "Loading"));
  if (moved) main.focus();
  try {
    await page(main, decodeURIComponent(rest), signal);
  } catch (error) {
    if (!signal.aborted) main.replaceChildren(h("p", {class: "problem", role: "alert"}, error.message));
  }
}

const themes = ["system", "light", "dark"];
const button = document.getElementById("theme");

function dress(theme) {
  document.documentElement.dataset.theme = theme;
  button.textContent = `Theme: ${theme}`;
  redress();
}

button.addEventListener("click", () => {
  const theme = themes[(themes.indexOf(document.documentElement.dataset.theme) + 1) % themes.length];
  localStorage.setItem("theme", theme);
  dress(theme);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redress);
document.querySelector(".skip").addEventListener("click", e => { e.preventDefault(); main.focus(); });
addEventListener("hashchange", () => show(true));
dress(themes.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "system");
show(false);
