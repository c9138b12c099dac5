"use strict";
// What follows from other values of a setting.
if (report.data.sweep) (() => {
  const { data, axis, colour, fit, keep, number, id: $ } = report;
  let sweeps = [];
  function draw() {
    sweeps.forEach((plot) => plot.destroy());
    $("sweep-charts").replaceChildren();
    const points = [...data.sweep.points].sort((a, b) => a.value - b.value);
    const share = (v) => `${Math.round(v * 100)}%`;
    const charts = [[[["episodes a machine and day", "now", (p) => ({ value: p.episodes_per_machine_day })]], number]];
    if (points.some((p) => p.recall)) {
      charts[0] = [[["false alarms a machine and day", "bad", (p) => p.false_alarms_per_machine_day]], number];
      charts.unshift([[["recall", "good", (p) => p.recall], ["precision", "now", (p) => p.precision]], share]);
    }
    const figures = charts.map(() => $("sweep-charts").appendChild(document.createElement("figure")));
    sweeps = charts.map(([lines, write], i) => sweepChart(figures[i], points, lines, write));
  }

  function sweepChart(figure, points, lines, write) {
    const caption = figure.appendChild(document.createElement("figcaption"));
    const xs = points.map((p) => p.value), first = xs[0], last = xs[xs.length - 1], log = first > 0 && last / first > 20;
    const columns = [xs], series = [{}], bands = [];
    for (const [, tone, of] of lines) {
      const edge = { stroke: "transparent", points: { show: false } }, at = series.length;
      series.push({ stroke: colour(tone), width: 2, points: { show: true, size: 6 } }, edge, { ...edge });
      for (const key of ["value", "low", "high"]) columns.push(points.map((p) => of(p)?.[key] ?? null));
      bands.push({ series: [at + 2, at + 1], fill: colour(tone, 0.15) });
    }
    const say = (i) => {
      caption.replaceChildren(i == null ? "" : `${data.sweep.key} ${number(xs[i])}: `);
      for (const [name, tone, of] of lines) {
        const value = i == null ? null : of(points[i])?.value;
        caption.append(keyOf(tone), value == null ? `${name} ` : `${name} ${write(value)} `);
      }
    };
    const pad = log ? (last / first) ** 0.03 : (last - first) * 0.03 || 1;
    const plot = new uPlot({
      width: fit(figure, 2), height: 230, legend: { show: false }, series, bands,
      scales: { x: { time: false, distr: log ? 3 : 1, range: log ? [first / pad, last * pad] : [first - pad, last + pad] },
        y: { range: (_, __, most) => [0, write === number ? (most || 1) * 1.05 : 1] } },
      axes: [axis({ size: 34, values: (_, marks) => marks.map((v) => v == null ? "" : number(v)) }),
        axis({ size: 56, values: (_, marks) => marks.map(write) })],
      cursor: { y: false, drag: { x: false, y: false }, sync: { key: "sweep", setSeries: false } }, padding: [10, 12, 0, 0],
      hooks: { setCursor: [(u) => say(u.cursor.left < 0 ? null : u.cursor.idx)] },
    }, columns, figure);
    say(null);
    return plot;
  }

  function keyOf(tone) {
    const [key, rect] = ["svg", "rect"].map((name) => document.createElementNS("http://www.w3.org/2000/svg", name));
    key.setAttribute("class", "key");
    key.setAttribute("viewBox", "0 0 1 1");
    for (const [name, value] of Object.entries({ width: 1, height: 1, fill: colour(tone) })) rect.setAttribute(name, value);
    key.append(rect);
    return key;
  }

  draw();
  keep(draw);
})();
