// Episodes and drift as cards, and the acknowledgement of an episode.
import { STATES, bar, duration, icon, make, moment, ms, now, number, plural, since } from "./look.js";
import { headers } from "./stream.js";

const KEY = "who", SHOWN = 60;

/** What was seen and expected, channel by channel. */
export function causes(list) {
  const rows = list.map((cause) => make("tr", {},
    make("th", { scope: "row", text: cause.channel }),
    make("td", { text: typeof cause.value === "number" ? `${number(cause.value)} ${cause.unit}` : String(cause.value ?? "none") }),
    make("td", { class: "quiet", text: cause.expected === null ? "" : `usual ${number(cause.expected)}` }),
    make("td", { class: "share", title: `${Math.round(100 * cause.share)} % of the whole` }, bar(cause.share, "bad"))));
  return make("table", { class: "causes" }, make("tbody", {}, ...rows));
}

function acknowledged(view) {
  return view.acknowledgements.map(({ who, note, acknowledged_at }) =>
    make("p", { class: "seen-by small" }, make("b", { text: who }), ` ${moment(ms(acknowledged_at))}${note ? `: ${note}` : ""}`));
}

/** A form that acknowledges an episode. */
export function acknowledgeForm(view, refused) {
  const who = make("input", { name: "who", placeholder: "Your name", "aria-label": "Your name", required: true, maxlength: 100, autocomplete: "name" });
  const note = make("input", { name: "note", placeholder: "Note", "aria-label": "Note", maxlength: 1000, autocomplete: "off" });
  const said = make("span", { class: "small", role: "status" }), send = make("button", { text: "Acknowledge", type: "submit" });
  who.value = localStorage.getItem(KEY) ?? "";
  return make("form", { class: "acknowledge", on: { submit: async (e) => {
    e.preventDefault();
    localStorage.setItem(KEY, who.value);
    send.disabled = true;
    said.textContent = "";
    try {
      const answer = await fetch(`episodes/${encodeURIComponent(view.episode.id)}/acknowledgement`, { method: "POST",
        headers: { ...headers(), "Content-Type": "application/json" }, body: JSON.stringify({ who: who.value, note: note.value }) });
      if (answer.ok) { note.value = ""; said.textContent = "Recorded."; }
      else if (answer.status === 401 || answer.status === 403) refused("Acknowledging needs a token with the scope admin.");
      else said.textContent = (await answer.json()).detail ?? "It was not recorded; try again.";
    } catch {
      said.textContent = "The server does not answer; it was not recorded.";
    }
    send.disabled = false;
  } } }, who, note, send, said);
}

/** All that is told of one episode. */
export function episodeDetail(view, refused) {
  const { episode } = view, is_open = episode.status !== "closed";
  const lasted = (is_open ? now() : ms(episode.closed_at)) - ms(episode.began_at);
  return make("section", { class: `detail edge-${is_open ? STATES[episode.severity].tone : "line"}` },
    make("p", { class: "reason", text: episode.reason }), causes(episode.causes),
    make("p", { class: "small quiet", text: `${is_open ? `Open for ${duration(lasted)}` : `Lasted ${duration(lasted)}`}, `
      + `${plural(episode.anomalies, "abnormal reading")}, the worst ${moment(ms(episode.worst_at))} with a score of ${number(episode.anomaly_score)}.` }),
    ...acknowledged(view), is_open ? acknowledgeForm(view, refused) : null);
}

function card(view, open) {
  const { episode } = view, is_open = episode.status !== "closed", who = view.acknowledgements.at(-1)?.who;
  const when = is_open ? since(ms(episode.began_at)) : `${moment(ms(episode.began_at))} to ${moment(ms(episode.closed_at))}`;
  return make("li", {}, make("button", { type: "button", class: `card edge-${is_open ? STATES[episode.severity].tone : "line"}`, on: { click: () => open(episode.machine_id) } },
    make("span", { class: "card-head" }, icon(episode.severity), make("b", { text: episode.machine_id }),
      who ? make("span", { class: "seen small", text: `✓ ${who}` }) : null),
    make("span", { class: "card-when small quiet", text: `${STATES[episode.severity].word}, ${when}` }),
    make("span", { class: "card-why", text: episode.reason })));
}

export class Lists {
  constructor(elements, open) { Object.assign(this, { ...elements, openMachine: open, episodes: new Map(), drifts: new Map() }); }

  clear() { this.episodes.clear(); this.drifts.clear(); }

  take(episodes, drifts) {
    for (const view of episodes) this.episodes.set(view.episode.id, view);
    for (const drift of drifts) this.drifts.set(drift.id, drift);
    const closed = [...this.episodes.values()].filter((view) => view.episode.status === "closed");
    closed.sort((a, b) => ms(b.episode.closed_at) - ms(a.episode.closed_at));
    for (const { episode } of closed.slice(SHOWN)) this.episodes.delete(episode.id);
    this.closedViews = closed.slice(0, SHOWN);
  }

  /** Open episodes: what nobody looks after first, then the worst, then the latest. */
  opened() {
    const all = [...this.episodes.values()].filter((view) => view.episode.status !== "closed");
    const rank = (view) => (view.acknowledgements.length ? 10 : 0) + STATES[view.episode.severity].rank;
    return all.sort((a, b) => rank(a) - rank(b) || ms(b.episode.began_at) - ms(a.episode.began_at));
  }

  openDrifts() { return [...this.drifts.values()].filter((drift) => drift.status !== "closed"); }

  draw() {
    const opened = this.opened(), held = document.activeElement?.closest(".cards li");
    const place = held && held.parentElement === this.open ? [...this.open.children].indexOf(held) : -1;
    const cards = opened.slice(0, SHOWN).map((view) => card(view, this.openMachine));
    if (!opened.length) cards.push(make("li", { class: "calm" }, icon("normal"), "None. Nothing needs you."));
    if (opened.length > SHOWN) cards.push(make("li", { class: "quiet small", text: `and ${opened.length - SHOWN} more; search for a machine to see them` }));
    this.open.replaceChildren(...cards);
    if (place >= 0) this.open.children[Math.min(place, this.open.children.length - 1)]?.querySelector("button")?.focus();
    const closed = this.closedViews.slice(0, 8);
    this.closed.replaceChildren(...closed.map((view) => card(view, this.openMachine)));
    this.closedPart.hidden = !closed.length;
    const drifts = this.openDrifts();
    this.driftBox.replaceChildren(...drifts.map(driftCard));
    if (!drifts.length) this.driftBox.append(make("p", { class: "quiet small", text: "No drift is open." }));
  }
}

function driftCard(drift) {
  const most = Math.max(0.3, ...drift.features.map((feature) => feature.score));
  const rows = drift.features.slice(0, 6).map((feature) => make("tr", {},
    make("th", { scope: "row", text: feature.feature }),
    make("td", { text: feature.unit ? `${feature.effect > 0 ? "+" : ""}${number(feature.effect)} ${feature.unit}` : feature.direction }),
    make("td", { class: "share", title: `Wasserstein distance ${number(feature.score)}` }, bar(feature.score / most, "other"))));
  return make("section", { class: "card drift edge-other" },
    make("span", { class: "card-head" }, make("b", { text: drift.group }), make("span", { class: "seen small", text: drift.advice.replaceAll("-", " ") })),
    make("span", { class: "small quiet", text: since(ms(drift.began_at)) }), make("span", { class: "card-why", text: drift.reason }),
    make("table", { class: "causes" }, make("tbody", {}, ...rows)));
}
