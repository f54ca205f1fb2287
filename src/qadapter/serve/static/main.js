// The page: which view is open, which adapter is asked, and what the keys do.

import { ApiError, gate, getJson, useKey } from "./api.js";
import { Compare } from "./compare.js";
import { byId, el, say } from "./dom.js";
import { QuestionError, readQuestion } from "./question.js";
import { Report } from "./report.js";
import { Sweep } from "./sweep.js";

const views = { compare: new Compare(), sweep: new Sweep(), report: new Report() };
const tabs = [...document.querySelectorAll("[role=tab]")];
const model = byId("model");
let adapters = [];
let open = "compare";

function show(name) {
  open = name;
  for (const tab of tabs) {
    const chosen = tab.getAttribute("aria-controls") === name;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    byId(tab.getAttribute("aria-controls")).hidden = !chosen;
  }
  byId("question").hidden = name === "report";
  if (name === "report") views.report.load(model.value);
}

async function send() {
  say(byId("question-error"), "");
  try {
    await views[open].ask(readQuestion());
  } catch (error) {
    if (!(error instanceof QuestionError)) throw error;
    say(byId("question-error"), error.message);
  }
}

function stop() {
  for (const view of Object.values(views)) view.stop();
}

async function loadModels() {
  try {
    const { data } = await getJson("v1/models");
    adapters = data.filter((entry) => entry.qadapter);
    model.replaceChildren(...adapters.map(({ id }) => el("option", { value: id }, id)));
    model.disabled = false;
    views.compare.useBase(data.find((entry) => !entry.qadapter).id);
    views.compare.useAdapter(adapters[0]);
    say(byId("models-error"), "");
    byId("key-form").hidden = true;
    if (open === "report") views.report.load(model.value);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    say(byId("models-error"), error.message);
  }
}

for (const tab of tabs) {
  tab.addEventListener("click", () => {
    // Following the address instead would take the focus from the tab.
    history.replaceState(null, "", `#${tab.getAttribute("aria-controls")}`);
    show(tab.getAttribute("aria-controls"));
  });
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const next = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
    next.focus();
    next.click();
  });
}

byId("question").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
byId("stop").addEventListener("click", stop);
model.addEventListener("change", () => {
  views.compare.useAdapter(adapters[model.selectedIndex]);
  if (open === "report") views.report.load(model.value);
});
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(byId("key").value);
  byId("key").value = "";
  loadModels();
});
gate.addEventListener("unauthorized", () => {
  byId("key-form").hidden = false;
  byId("key").focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && open !== "report") {
    event.preventDefault();
    send();
  }
});

function fromAddress() {
  const name = location.hash.slice(1);
  show(Object.hasOwn(views, name) ? name : "compare");
}

window.addEventListener("hashchange", fromAddress);

fromAddress();
loadModels();
