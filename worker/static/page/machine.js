// One machine: what is wrong with it, and its readings as they come.
import { SEVERITIES, STATES, colour, duration, icon, make, moment, ms, now, number, onColours, plural, since } from "./look.js";
import { episodeDetail } from "./lists.js";

const KEPT = 300, FEW = 8, AXIS = 58;
const DAY = 86400;
const clock = [[365 * DAY, "{YYYY}", null], [28 * DAY, "{MMM}", "\n{YYYY}"], [DAY, "{D} {MMM}", null], [60, "{HH}:{mm}", "\n{D} {MMM}"],
  [1, "{HH}:{mm}:{ss}", "\n{D} {MMM}"]].map(([from, each, day]) => [from, each, from === 28 * DAY ? day : null, null, from < DAY ? day : null, null, null, null, 1]);

export class MachinePanel {
  constructor(elements, refused) {
    Object.assign(this, { ...elements, refused, charts: [], id: null, channels: [], all: false });
    onColours(() => this.build());
    new ResizeObserver(() => this.resize()).observe(this.figure);
    this.more.addEventListener("click", () => { this.all = true; this.build(); });
  }

  introduce(channels) { this.channels = channels; }

  show(id) {
    Object.assign(this, { id, view: null, all: false, samples: [], told: "" });
    this.name.textContent = id;
    this.state.textContent = "Waiting for its readings";
    for (const part of [this.wrong, this.facts, this.figure]) part.replaceChildren();
    for (const chart of this.charts) chart.plot.destroy();
    this.charts = [];
    this.more.hidden = true;
  }

  /** Take what was told; samples are those that are new. */
  take(view) {
    if (view === undefined || view.machine_id !== this.id) return;
    this.view = view;
    const { time_ms, score, threshold, values } = view.samples;
    const known = new Map(this.samples.map((sample) => [sample.at, sample]));
    time_ms.forEach((at, i) => known.set(at / 1000, { at: at / 1000, score: score[i], threshold: threshold[i],
      values: this.channels.map(([name]) => values[name]?.[i] ?? null) }));
    this.samples = [...known.values()].sort((a, b) => a.at - b.at).slice(-KEPT);
    this.words();
    if (!this.charts.length && this.samples.length) this.build(); else this.feed();
  }

  words() {
    const { view } = this, { state, since: from } = view;
    const said = `${STATES[state].word}${from ? `, ${since(ms(from))}` : ""}`;
    this.state.replaceChildren(icon(state), said);
    this.factsTable();
    // Forms keep what is being written: only what changed is drawn again.
    const told = JSON.stringify([view.episodes, view.health]);
    if (told === this.told || this.wrong.contains(document.activeElement) && document.activeElement.value) return;
    this.told = told;
    const opened = view.episodes.filter(({ episode }) => episode.status !== "closed");
    const closed = view.episodes.filter(({ episode }) => episode.status === "closed");
    this.wrong.replaceChildren(...opened.map((episode) => episodeDetail(episode, this.refused)),
      ...view.health.map((health) => make("section", { class: "detail edge-now" },
        make("p", { class: "reason", text: health.detail }),
        make("p", { class: "small quiet", text: `${health.channel ?? "the machine"}: ${health.kind}, ${since(ms(health.opened_at))}. ${health.effect}.` }))),
      ...closed.length ? [make("details", {}, make("summary", { text: plural(closed.length, "earlier episode") }),
        ...closed.map((episode) => make("div", { class: "earlier" }, make("p", { class: "small" },
          make("b", { text: `${moment(ms(episode.episode.began_at))} ` }), STATES[episode.episode.severity].word), episodeDetail(episode, this.refused))))] : []);
  }

  factsTable() {
    const { latest } = this.view;
    if (!latest) { this.facts.replaceChildren(make("p", { class: "quiet small", text: "The online store does not have this machine: readings are those of its anomalies." })); return; }
    const open = this.facts.querySelector("details")?.open;
    const rows = Object.entries(latest.windows).map(([name, w]) => make("tr", {}, make("th", { scope: "row", text: name }),
      ...[w.count, w.mean, w.std, w.min, w.max].map((value) => make("td", { text: value === null ? "" : number(value) }))));
    const details = make("details", { open }, make("summary", { text: "Rolling aggregates" }), make("div", { class: "wide" }, make("table", {},
      make("thead", {}, make("tr", {}, ...["channel", "readings", "mean", "std", "min", "max"].map((text) => make("th", { scope: "col", text })))), make("tbody", {}, ...rows))));
    const facts = [["Last reading", `${moment(ms(latest.timestamp), true)} (${duration(now() - ms(latest.timestamp))} ago)`], ["Score", `${number(latest.anomaly_score)}, threshold ${number(latest.threshold)}`],
      ["Confidence", `${(100 * latest.confidence).toFixed(1)} %`], ["Warm-up", latest.experience >= 1 ? "done" : `${Math.round(100 * latest.experience)} %`], ["Model", latest.model_version]];
    this.facts.replaceChildren(make("dl", {}, ...facts.flatMap(([name, text]) => [make("dt", { text: name }), make("dd", { text })])), details);
  }

  // ---- charts ----

  /** Score, then the channels, those first that the open episode names. */
  wanted() {
    const named = this.view.episodes.filter(({ episode }) => episode.status !== "closed").flatMap(({ episode }) => episode.causes.map((cause) => cause.channel));
    const rank = (name) => named.includes(name) ? named.indexOf(name) : named.length;
    const channels = this.channels.map(([name, unit], at) => ({ name, unit, at })).sort((a, b) => rank(a.name) - rank(b.name));
    return this.all ? channels : channels.slice(0, FEW);
  }

  build() {
    if (!this.view || !this.samples.length) return;
    for (const chart of this.charts) chart.plot.destroy();
    this.figure.replaceChildren();
    const line = (name, more = {}) => ({ stroke: colour(name), width: 1.6, points: { show: (u) => u.data[0].length < 40, size: 4, fill: colour(name) }, ...more });
    this.charts = [{ title: "score", unit: "abnormal below the threshold", series: [line("text"), line("bad", { dash: [5, 4], width: 1.2, points: { show: false } })],
      data: (s) => [s.map((one) => one.score), s.map((one) => one.threshold)] }];
    for (const { name, unit, at } of this.wanted())
      this.charts.push({ title: name, unit, series: [line("now")], data: (s) => [s.map((one) => one.values[at])], channel: name });
    this.charts.forEach((chart, i) => this.plot(chart, i === this.charts.length - 1));
    const left = this.channels.length - FEW;
    this.more.hidden = this.all || left <= 0;
    this.more.textContent = `Show ${plural(left, "more channel")}`;
  }

  plot(chart, last) {
    chart.value = make("span", { class: "value" });
    const holder = make("div", { class: "chart" }, make("figcaption", {}, make("b", { text: chart.title }), make("span", { class: "quiet", text: chart.unit }), chart.value));
    this.figure.append(holder);
    const axis = { stroke: colour("quiet"), grid: { stroke: colour("grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    chart.plot = new uPlot({
      width: this.width(), height: last ? 122 : 92, legend: { show: false }, series: [{}, ...chart.series],
      scales: { x: { time: true, range: (_, first, last) => [this.from(first, last), last] } }, axes: [{ ...axis, show: last, size: 38, values: clock }, { ...axis, size: AXIS, space: 24 }], padding: [6, 8, last ? 0 : 6, 0],
      cursor: { y: false, drag: { x: false, y: false }, sync: { key: "machine", setSeries: false }, points: { size: 6 } },
      hooks: { drawClear: [(u) => this.shade(u, chart)], setCursor: [(u) => this.read(u, chart)] },
    }, this.data(chart), holder);
    this.read(chart.plot, chart);
  }

  /** Where the charts begin: an open episode and as much time before it, if that is known. */
  from(first, last) {
    const open = this.view.episodes.find(({ episode }) => episode.status !== "closed");
    if (!open) return first;
    const began = ms(open.episode.began_at) / 1000, from = began - Math.max(last - began, 1200);
    return Math.max(first, from);
  }

  data(chart) { return [this.samples.map((one) => one.at), ...chart.data(this.samples)]; }
  width() { return Math.max(this.figure.clientWidth, 200); }
  feed() { for (const chart of this.charts) { chart.plot.setData(this.data(chart)); this.read(chart.plot, chart); } }
  resize() { for (const chart of this.charts) if (chart.plot.width !== this.width()) chart.plot.setSize({ width: this.width(), height: chart.plot.height }); }

  /** Bands where an episode, or a condition of this channel's sensor, was open. */
  shade(u, chart) {
    const stretches = this.view.episodes.map(({ episode }) => [episode.began_at, episode.closed_at, STATES[SEVERITIES.includes(episode.severity) ? episode.severity : "low"].tone]);
    for (const health of this.view.health)
      if (chart.channel && (health.channel === null || health.channel === chart.channel)) stretches.push([health.opened_at, health.closed_at, "now"]);
    const { left, top, width, height } = u.bbox;
    for (const [begin, end, tone] of stretches) {
      const a = Math.max(u.valToPos(ms(begin) / 1000, "x", true), left), b = end === null ? left + width : Math.min(u.valToPos(ms(end) / 1000, "x", true), left + width);
      if (b < left || a > left + width) continue;
      u.ctx.fillStyle = colour(tone, 0.14);
      u.ctx.fillRect(a, top, Math.max(b - a, 2 * devicePixelRatio), height);
    }
  }

  /** The value below the cursor, else the latest. */
  read(u, chart) {
    const [times, ...lines] = u.data, i = u.cursor.idx ?? times.length - 1, inside = u.cursor.idx != null;
    if (i < 0) return;
    const text = lines.length > 1 ? `${number(lines[0][i])}, threshold ${number(lines[1][i])}` : `${number(lines[0][i])} ${chart.unit}`;
    chart.value.textContent = inside ? `${moment(times[i] * 1000, true)}  ${text}` : text;
  }
}
