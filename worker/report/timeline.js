"use strict";
// The timelines of machines: bands of what was true and told over score and channels.
if (report.data.machines.length) (() => {
  const { data, axis, clock, colour, fit, keep, marks, number, utc, id: $ } = report;
  const GAP = 65535, MISSING = 65534, AXIS = 62, FEW = 8;
  const moment = (s) => new Date(s * 1000).toISOString().slice(0, 19).replace("T", " ");

  // ---- unpacking: the format is described in packing.py ----

  async function unpack(machine) {
    const packed = Uint8Array.from(atob(machine.data), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
    const n = machine.n, size = bytes.length / 2;
    const word = (row, i) => bytes[row * n + i] | bytes[size + row * n + i] << 8;
    const times = new Array(n);
    for (let i = 0, t = 0; i < n; i++) {
      t += word(0, i) * 65536 + word(1, i);
      times[i] = (machine.start_us + t * machine.unit_us) / 1e6;
    }
    const series = machine.ranges.map(([smallest, largest], s) => {
      const step = (largest - smallest) / machine.levels, lows = new Array(n), highs = new Array(n);
      for (let i = 0, low = 0, more = 0; i < n; i++) {
        low = low + word(2 + 2 * s, i) & 65535;
        more = more + word(3 + 2 * s, i) & 65535;
        // uPlot interrupts a line at null and goes on over undefined.
        lows[i] = low === GAP ? null : low === MISSING ? undefined : smallest + step * low;
        highs[i] = lows[i] == null ? lows[i] : smallest + step * (low + more);
      }
      return { lows, highs };
    });
    return { times, series };
  }

  // ---- drawing ----

  function shade(u, stretches, fill, edge) {
    const { left, top, width, height } = u.bbox, ctx = u.ctx;
    for (const [begin, end] of stretches) {
      const a = Math.max(u.valToPos(begin, "x", true), left);
      const b = Math.min(u.valToPos(end ?? u.scales.x.max, "x", true), left + width);
      if (b < left || a > left + width) continue;
      ctx.fillStyle = fill;
      ctx.fillRect(a, top, Math.max(b - a, 1.5 * devicePixelRatio), height);
      if (edge) { ctx.fillStyle = edge; ctx.fillRect(a, top, devicePixelRatio, height); ctx.fillRect(b, top, devicePixelRatio, height); }
    }
  }

  function envelope(chart, name, more = {}) {
    const first = chart.series.length;
    const line = { stroke: colour(name), width: 1.2, ...more };
    chart.series.push({ ...line }, { ...line, points: { show: false } });
    chart.bands.push({ series: [first + 1, first], fill: colour(name, 0.25) });
  }

  const view = { machine: null, found: null, charts: [], min: 0, max: 1, all: false };

  function span() {
    const times = view.found.times, { machine } = view;
    let last = times[times.length - 1];
    // That a machine is silent is told after its last reading; a part of that is enough.
    const told = [machine.health, machine.truth, machine.episodes, machine.others].flat();
    if (told.some(([begin]) => begin > last)) last += Math.min(data.end - last, (last - times[0]) / 10);
    const pad = Math.max((last - times[0]) * 0.005, 0.5);
    return [times[0] - pad, last + pad];
  }

  function setView(min, max) {
    const [first, last] = span();
    const width = Math.min(Math.max(max - min, Math.max((last - first) / 1e5, 1e-3)), last - first);
    view.min = Math.min(Math.max((min + max - width) / 2, first), last - width);
    view.max = view.min + width;
    for (const chart of view.charts) chart.plot.setScale("x", { min: view.min, max: view.max });
    const whole = width >= (last - first) * 0.9999;
    for (const name of ["reset", "out", "earlier", "later"]) document.querySelector(`[data-do=${name}]`).disabled = whole;
  }

  const pan = (share) => setView(view.min + share * (view.max - view.min), view.max + share * (view.max - view.min));
  function zoom(factor, at = (view.min + view.max) / 2) {
    const width = Math.min((view.max - view.min) * factor, span()[1] - span()[0]), share = (at - view.min) / (view.max - view.min);
    setView(at - share * width, at + (1 - share) * width);
  }
  const reset = () => setView(...span());
  function showStretch(begin, end) {
    const last = end ?? span()[1], around = Math.max(2 * (last - begin), 3600);
    setView(begin - around / 2, last + around / 2);
  }
  function goTo(direction) {
    const middle = (view.min + view.max) / 2, of = ([a, b]) => (a + b) / 2;
    const all = [];
    for (const [begin, end] of [...view.machine.episodes, ...view.machine.others, ...view.machine.truth].sort((a, b) => a[0] - b[0])) {
      const last = all[all.length - 1], until = end ?? span()[1];
      if (last && begin <= last[1]) last[1] = Math.max(last[1], until);
      else all.push([begin, until]);
    }
    // All of the time is seen at first: then the first or the last one is meant.
    const whole = view.max - view.min >= (span()[1] - span()[0]) * 0.9999;
    const next = direction > 0 ? all.find((e) => whole || of(e) > middle + 1) : all.findLast((e) => whole || of(e) < middle - 1);
    if (next) showStretch(next[0], next[1]);
  }

  function lanes() {
    const machine = view.machine, found = [];
    if (machine.truth.length) found.push(["truth", machine.truth, (t) => t[3] ? "good" : "bad"]);
    found.push(["episodes", machine.episodes, (e) => e[4] === false ? "bad" : "now"]);
    if (data.sides > 1) found.push(["other's", machine.others, (e) => e[4] === false ? "bad" : "other"]);
    if (machine.health.length) found.push(["sensors", machine.health, () => "unsure"]);
    return found;
  }

  function laneChart() {
    const found = lanes();
    const names = found.map(([name]) => name);
    const chart = { title: null, height: 24 * found.length + 52, series: [{}], bands: [], data: [view.found.times] };
    found.forEach((_, i) => { chart.series.push({ show: true, stroke: "transparent", points: { show: false } }); chart.data.push(view.found.times.map(() => i)); });
    chart.y = { scale: { dir: -1, range: () => [-0.5, found.length - 0.5] }, axis: { splits: () => names.map((_, i) => i), values: () => names, grid: { show: false }, ticks: { show: false } } };
    chart.axisX = true;
    chart.under = (u) => found.forEach(([, stretches, name], i) => {
      const { left, width } = u.bbox, y = u.valToPos(i, "y", true), half = 8 * devicePixelRatio;
      u.ctx.fillStyle = colour("grid", 0.6);
      u.ctx.fillRect(left, y - half, width, 2 * half);
      for (const one of stretches) {
        const a = Math.max(u.valToPos(one[0], "x", true), left), b = Math.min(u.valToPos(one[1] ?? u.scales.x.max, "x", true), left + width);
        if (b < left || a > left + width) continue;
        u.ctx.fillStyle = colour(name(one));
        u.ctx.fillRect(a, y - half, Math.max(b - a, 2.5 * devicePixelRatio), 2 * half);
      }
    });
    return chart;
  }

  function bandsUnder(channel) {
    const { machine } = view;
    return (u) => {
      for (const [found, tone] of [[true, "good"], [false, "bad"]])
        shade(u, machine.truth.filter((t) => (t[3] === true) === found), colour(tone, 0.1), colour(tone, 0.5));
      shade(u, machine.episodes, colour("now", 0.15));
      shade(u, machine.others, colour("other", 0.12));
      shade(u, machine.health.filter((h) => channel !== null && (h[3] === null || h[3] === channel)), colour("unsure", 0.2));
    };
  }

  function scoreChart(side) {
    const { times, series } = view.found, score = series[2 * side], threshold = series[2 * side + 1];
    const chart = { title: side ? "score of the other" : data.sides > 1 ? "score" : "score, below its threshold: abnormal", unit: "", height: 130, series: [{}], bands: [],
      data: [times, score.lows, score.highs, threshold.lows], under: bandsUnder(null), side };
    envelope(chart, side ? "other" : "now");
    chart.series.push({ stroke: colour("bad"), width: 1.2, dash: [5, 4], points: { show: false } });
    return chart;
  }

  function channelChart(place) {
    const at = view.machine.channels[place], { name, unit } = data.channels[at];
    const { lows, highs } = view.found.series[2 * data.sides + place];
    const chart = { title: name, unit, height: 110, series: [{}], bands: [], data: [view.found.times, lows, highs], under: bandsUnder(name) };
    envelope(chart, "now");
    return chart;
  }

  function build(chart) {
    const figure = document.createElement("figure"), caption = document.createElement("figcaption");
    figure.className = "chart";
    if (chart.title !== null) {
      caption.className = "chart-name";
      const name = document.createElement("b"), unit = document.createElement("span"), value = document.createElement("span");
      name.textContent = chart.title;
      unit.textContent = chart.unit;
      caption.append(name, unit, value);
      chart.value = value;
      figure.append(caption);
    }
    $("charts").append(figure);
    const y = chart.y ?? {};
    chart.plot = new uPlot({
      width: fit($("charts")), height: chart.height, tzDate: utc, legend: { show: false }, series: chart.series, bands: chart.bands,
      scales: { x: { time: true, auto: false, min: view.min, max: view.max }, y: y.scale ?? {} },
      axes: [axis({ show: chart.axisX === true, size: 46, values: clock }), axis({ size: AXIS, values: marks, ...y.axis })],
      padding: [6, 22, chart.axisX ? 0 : 6, 0],
      cursor: { y: false, sync: { key: "machine", setSeries: false }, drag: { x: true, y: false, setScale: false },
        points: { show: chart.title !== null, size: 5 }, bind: { dblclick: () => () => { reset(); return null; } } },
      hooks: { drawClear: [(u) => chart.under(u)], setSelect: [selected], setCursor: [(u) => readout(u, chart)], ready: [(u) => movable(u)] },
    }, chart.data, figure);
  }

  function selected(u) {
    if (u.select.width > 3) setView(u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x"));
    u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
  }

  function readout(u, chart) {
    const i = u.cursor.idx, inside = i != null && u.cursor.left >= 0;
    if (chart.title !== null) {
      const [, lows, highs, threshold] = chart.data;
      const value = inside ? (lows[i] === highs[i] ? number(lows[i]) : `${number(lows[i])} to ${number(highs[i])}`) : "";
      chart.value.textContent = inside && threshold ? `${value}, threshold ${number(threshold[i])}` : value;
      return;
    }
    if (!inside) { $("readout").textContent = ""; return; }
    const at = u.posToVal(u.cursor.left, "x"), slack = 2 * (view.max - view.min) / u.bbox.width;
    const parts = [moment(at)];
    for (const [name, stretches] of lanes()) for (const one of stretches)
      if (one[0] - slack <= at && at <= (one[1] ?? Infinity) + slack) parts.push(`${name}: ${words(name, one)}`);
    $("readout").textContent = parts.join(" · ");
  }

  function words(lane, [, , a, b, right]) {
    if (lane === "truth") return `${a ?? "true episode"}, ${b ? "found" : "missed"}`;
    if (lane === "sensors") return b === null ? a : `${a}, ${b}`;
    return `${right === false ? "false, " : ""}${a}: ${b.join(", ")}`;
  }

  function movable(u) {
    let from = null;
    const over = u.over, sets = (e) => e.pointerType === "touch" || e.shiftKey;
    over.addEventListener("mousedown", (e) => { if (e.shiftKey || from) e.stopImmediatePropagation(); }, true);
    over.addEventListener("pointerdown", (e) => { if (sets(e)) { from = { x: e.clientX, min: view.min, max: view.max }; over.setPointerCapture(e.pointerId); } });
    over.addEventListener("pointermove", (e) => {
      if (!from) return;
      const moved = (from.x - e.clientX) / over.clientWidth * (from.max - from.min);
      setView(from.min + moved, from.max + moved);
    });
    for (const name of ["pointerup", "pointercancel"]) over.addEventListener(name, () => { from = null; });
    over.addEventListener("wheel", (e) => {
      if (!e.ctrlKey) return;
      e.preventDefault();
      zoom(e.deltaY > 0 ? 1.25 : 0.8, u.posToVal(e.clientX - over.getBoundingClientRect().left, "x"));
    }, { passive: false });
  }

  function draw() {
    for (const chart of view.charts) chart.plot.destroy();
    $("charts").replaceChildren();
    const channels = view.machine.channels.map((_, i) => i).slice(0, view.all ? undefined : FEW);
    view.charts = [laneChart(), ...Array.from({ length: data.sides }, (_, s) => scoreChart(s)), ...channels.map(channelChart)];
    view.charts.forEach(build);
    const more = view.machine.channels.length - FEW;
    $("more").hidden = more <= 0 || view.all;
    $("more").textContent = `Show ${more} more channels`;
    setView(view.min, view.max);
  }

  // ---- machines ----

  async function choose(machine, then = reset) {
    view.wanted = machine;
    const found = await unpack(machine);
    if (view.wanted !== machine) return;
    Object.assign(view, { machine, found });
    [view.min, view.max] = span();
    $("shown").textContent = `${machine.id}: ${counts(machine)}`;
    for (const button of $("machines").querySelectorAll("button"))
      button.setAttribute("aria-current", String(data.machines[button.dataset.place] === machine));
    draw();
    then();
  }

  const plural = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;
  function counts(machine) {
    const parts = [plural(machine.episodes.length, "episode")];
    if (data.sides > 1) parts.push(`${machine.others.length} by the other`);
    if (machine.true) parts.push(`${machine.missed} of ${machine.true} true missed`);
    if (machine.health.length) parts.push(plural(machine.health.length, "sensor fault"));
    return parts.join(", ");
  }

  function listMachines() {
    data.machines.forEach((machine, place) => {
      const item = document.createElement("li"), button = document.createElement("button"), small = document.createElement("small");
      button.type = "button";
      button.dataset.place = place;
      small.textContent = counts(machine);
      button.append(machine.id, small);
      button.addEventListener("click", () => choose(machine));
      item.append(button);
      $("machines").append(item);
    });
  }

  function search() {
    const wanted = $("search").value.trim().toLowerCase();
    let matches = 0;
    for (const item of $("machines").children) {
      item.hidden = !data.machines[item.firstChild.dataset.place].id.toLowerCase().includes(wanted);
      matches += !item.hidden;
    }
    $("matches").textContent = wanted ? `${matches} of ${data.machines.length}` : "";
  }

  const listed = () => [...$("machines").querySelectorAll("li:not([hidden]) > button")];

  function connect() {
    $("search").addEventListener("input", search);
    $("search").addEventListener("keydown", (e) => {
      if (e.key === "Enter") listed()[0]?.click();
      if (e.key === "ArrowDown") { listed()[0]?.focus(); e.preventDefault(); }
    });
    $("machines").addEventListener("keydown", (e) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[e.key], all = listed();
      if (!step) return;
      e.preventDefault();
      (all[all.indexOf(document.activeElement) + step] ?? $("search")).focus();
    });
    const actions = { earlier: () => pan(-0.25), later: () => pan(0.25), in: () => zoom(0.5), out: () => zoom(2), reset, previous: () => goTo(-1), next: () => goTo(1) };
    const keys = { ArrowLeft: "earlier", ArrowRight: "later", "+": "in", "=": "in", "-": "out", 0: "reset", Home: "reset", p: "previous", n: "next" };
    for (const button of document.querySelectorAll("[data-do]")) button.addEventListener("click", () => actions[button.dataset.do]());
    $("charts").addEventListener("keydown", (e) => {
      if (!keys[e.key] || e.ctrlKey || e.metaKey || e.altKey) return;
      e.preventDefault();
      actions[keys[e.key]]();
    });
    $("more").addEventListener("click", () => { view.all = true; draw(); $("charts").focus(); });
    for (const button of document.querySelectorAll("[data-machine]")) {
      const machine = data.machines.find((one) => one.id === button.dataset.machine);
      if (!machine) { button.remove(); continue; }
      button.addEventListener("click", async () => {
        const end = button.dataset.end === "" ? null : button.dataset.end / 1e6;
        await choose(machine, () => showStretch(button.dataset.begin / 1e6, end));
        $("timeline").scrollIntoView();
        $("charts").focus({ preventScroll: true });
      });
    }
  }

  listMachines();
  connect();
  choose(data.machines[0]).then(() => keep(draw));
})();
