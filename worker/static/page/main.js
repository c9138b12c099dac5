// Puts the page together: the stream in, verdict, grid, lists and the open machine out.
import { Grid } from "./grid.js";
import { STATES, WRONG, count, duration, icon, make, now, plural, setNow } from "./look.js";
import { Lists } from "./lists.js";
import { MachinePanel } from "./machine.js";
import { Stream, token } from "./stream.js";

const $ = (id) => document.getElementById(id);
const grid = new Grid($("grid"), $("tiles"), $("spacer"), $("grid-at"), $("tip"), open);
const lists = new Lists({ open: $("open"), closed: $("closed"), closedPart: $("closed-part"), driftBox: $("drifts") }, open);
const panel = new MachinePanel({ name: $("machine-name"), state: $("machine-state"), wrong: $("machine-wrong"), facts: $("machine-facts"),
  figure: $("charts"), more: $("more") }, refuse);
const stream = new Stream(told, link);
let latest = null, introduction = null, heard_ms = 0, waiting = 0;

function told(event, change) {
  setNow(change.now_ms);
  heard_ms = Date.now();
  latest = change;
  if (change.introduction) { introduction = change.introduction; panel.introduce(introduction.channels); }
  if (event === "snapshot") { lists.clear(); grid.replace(change.tiles ?? []); }
  else if (change.tiles || change.gone) grid.change(change.tiles ?? [], change.gone ?? []);
  const listed = event === "snapshot" || change.episodes || change.drifts;
  if (listed) { lists.take(change.episodes ?? [], change.drifts ?? []); lists.draw(); }
  panel.take(change.machine);
  summary();
}

// ---- what the whole is like ----

function counts() {
  const found = Object.fromEntries(Object.keys(STATES).map((state) => [state, 0]));
  for (const [, state] of grid.tiles.values()) found[state]++;
  return found;
}

function summary() {
  const found = counts(), all = grid.tiles.size, episodes = lists.opened(), alone = episodes.filter((view) => !view.acknowledgements.length);
  const worst = Object.keys(STATES).find((state) => found[state]) ?? "normal", sick = found.high + found.medium + found.low;
  const sensors = found.sensor + found.silent, { kafka, store } = latest.sources;
  let headline = all ? `All ${plural(all, "machine")} are well` : "No machine has reported yet", tone = "good";
  if (all === 1 && !sick && !sensors) headline = "The machine is well";
  if (sensors) { headline = `${plural(sensors, "machine")} cannot be watched fully`; tone = "now"; }
  if (sick) { headline = `${plural(sick, "machine")} of ${count(all)} ${sick === 1 ? "is" : "are"} not well`; tone = STATES[worst].tone; }
  const parts = [];
  if (kafka === "down") { tone = "bad"; parts.push("Kafka does not answer: this is what was known before"); }
  if (kafka === "behind") parts.push("still reading what happened before");
  if (store === "down") parts.push("the online store does not answer: readings are old");
  if (episodes.length) parts.push(alone.length ? `${plural(alone.length, "episode")} nobody looks after yet` : "somebody looks after every episode");
  if (sick && sensors) parts.push(`${plural(sensors, "machine")} with sensor faults or silent`);
  const drifts = lists.openDrifts();
  if (drifts.length) parts.push(`drift of ${drifts.map((drift) => drift.group).slice(0, 3).join(", ")}`);
  if (found.maintenance) parts.push(`${found.maintenance} in maintenance`);
  if (!all) tone = "line";
  $("verdict").className = `verdict edge-${tone}`;
  $("headline").textContent = headline;
  $("subline").textContent = parts.join(" · ") || "Nothing needs you.";
  document.title = sick ? `(${sick}) DriftDetector` : "DriftDetector";
  const { produced_per_s: made, processed_per_s: done, lag } = latest.progress;
  $("rate").textContent = done === null ? "–" : `${count(Math.round(done))}/s`;
  $("rate").title = made === null ? "" : `${count(Math.round(made))} published and ${count(Math.round(done))} processed a second`;
  $("lag").textContent = lag === null ? "–" : count(lag);
  $("lag").title = done > 0 && lag ? `${duration(1000 * lag / done)} of work` : "";
  $("model").textContent = introduction?.model_version ?? "–";
  $("model").title = introduction?.framework ?? "";
  $("drift-fact").textContent = drifts.length ? plural(drifts.length, "group") : "none";
  chips(found);
}

function chips(found) {
  const box = $("states");
  if (!box.children.length)
    for (const state of Object.keys(STATES))
      box.append(make("button", { type: "button", class: "chip", "data-state": state, "aria-pressed": "false", on: { click: () => pick(state) } }, icon(state), make("b", { text: "0" }), make("span", { text: STATES[state].word })));
  for (const chip of box.children) {
    const { state } = chip.dataset, chosen = grid.filter.states.has(state);
    chip.hidden = !found[state] && !chosen;
    chip.setAttribute("aria-pressed", String(chosen));
    chip.querySelector("b").textContent = count(found[state]);
    chip.classList.toggle("loud", WRONG.includes(state));
  }
  matches();
}

function pick(state) {
  const states = new Set(grid.filter.states);
  if (!states.delete(state)) states.add(state);
  grid.setFilter({ states });
  chips(counts());
}

function matches() {
  const filtered = grid.filter.text || grid.filter.states.size;
  $("matches").textContent = filtered ? `${count(grid.shown.length)} of ${count(grid.tiles.size)}` : "";
}

// ---- how fresh it is ----

function link(state) {
  const is_live = state === "live";
  document.body.classList.toggle("stale", state === "stale");
  $("link").className = `link ${is_live ? "live" : "late"}`;
  if (state === "refused") refuse(token.get() ? "The server does not accept this token." : undefined);
  fresh();
}

function fresh() {
  if (stream.said === "live") $("link").textContent = "live";
  else if (stream.said === "refused") $("link").textContent = "no access";
  else $("link").textContent = heard_ms ? `out of date, ${duration(Date.now() - heard_ms).replace("less than a minute", `${Math.round((Date.now() - heard_ms) / 1000)} s`)}` : "connecting";
}
setInterval(fresh, 1000);
// Ages move on although nothing happens.
setInterval(() => { if (latest) { lists.draw(); grid.later(); } }, 30000);

function refuse(why) {
  const dialog = $("token-dialog");
  if (why) $("token-why").textContent = `${why} It is kept until you close this tab.`;
  if (!dialog.open) dialog.showModal();
}
$("token-form").addEventListener("submit", () => {
  token.set($("token").value.trim());
  $("token").value = "";
  stream.said = "";
  stream.restart();
});

// ---- one machine ----

function open(id) {
  const place = `#${encodeURIComponent(id)}`;
  if (location.hash !== place) history.pushState(null, "", place);
  turn();
}

function turn() {
  const id = location.hash.length > 1 ? decodeURIComponent(location.hash.slice(1)) : null;
  if (id === stream.machine) return;
  $("machine").hidden = id === null;
  document.body.classList.toggle("opened", id !== null);
  grid.open = id;
  if (id !== null) { panel.show(id); $("machine").scrollTop = 0; $("machine").focus({ preventScroll: true }); scrollTo(0, 0); }
  else { panel.id = null; $("grid").focus({ preventScroll: true }); }
  grid.later();
  stream.open(id);
}

function close() {
  if (location.hash.length > 1) history.pushState(null, "", location.pathname + location.search);
  turn();
}

$("back").addEventListener("click", close);
addEventListener("popstate", turn);
addEventListener("hashchange", turn);
$("search").addEventListener("input", () => {
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(() => { grid.setFilter({ text: $("search").value.trim() }); matches(); });
});
$("search").addEventListener("keydown", (e) => {
  if (e.key === "Enter" && grid.shown.length) { grid.move(grid.shown[0]); open(grid.shown[0]); }
  if (e.key === "ArrowDown") { $("grid").focus(); e.preventDefault(); }
  if (e.key === "Escape") { $("search").value = ""; grid.setFilter({ text: "" }); matches(); $("grid").focus(); e.stopPropagation(); }
});
addEventListener("keydown", (e) => {
  const writing = e.target.closest?.("input, textarea, dialog");
  if (e.key === "Escape" && !$("token-dialog").open) close();
  if (e.key === "/" && !writing) { $("search").focus(); $("search").select(); e.preventDefault(); }
});
panel.id = null;
if (location.hash.length > 1) turn(); else stream.open(null);
