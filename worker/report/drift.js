"use strict";
// Drift scores of the fleet's windows; what drifted is shaded.
if (report.data.drift.length) (() => {
  const { data, axis, clock, colour, fit, keep, number, utc, id: $ } = report;
  let plots = [];

  function draw() {
    plots.forEach((plot) => plot.destroy());
    $("drift-charts").replaceChildren();
    const figures = data.drift.map(() => $("drift-charts").appendChild(document.createElement("figure")));
    plots = data.drift.map((chart, i) => build(figures[i], chart));
  }

  function build(figure, { window, start, end, score, drift }) {
    const caption = figure.appendChild(document.createElement("figcaption"));
    const say = (i) => {
      const value = i == null || i >= start.length ? "" : `: ${number(score[i])} from ${utc(start[i]).toLocaleString("sv")}${drift[i] ? ", drifted" : ""}`;
      caption.textContent = `windows of ${window}${value}`;
    };
    const under = (u) => start.forEach((begin, i) => {
      if (!drift[i]) return;
      const a = u.valToPos(begin, "x", true), b = u.valToPos(end[i], "x", true);
      u.ctx.fillStyle = colour("bad", 0.18);
      u.ctx.fillRect(a, u.bbox.top, Math.max(b - a, 1), u.bbox.height);
    });
    const last = start.length - 1;
    const plot = new uPlot({
      width: fit(figure), height: 150, tzDate: utc, legend: { show: false }, padding: [8, 22, 0, 0],
      series: [{}, { stroke: colour("now"), width: 1.2, paths: uPlot.paths.stepped({ align: 1 }), points: { show: false } }],
      scales: { y: { range: (_, __, most) => [0, (most || 1) * 1.05] } },
      axes: [axis({ size: 46, values: clock }), axis({ size: 50 })],
      cursor: { y: false, drag: { x: false, y: false }, sync: { key: "drift", setSeries: false } },
      hooks: { drawClear: [under], setCursor: [(u) => say(u.cursor.left < 0 ? null : u.cursor.idx)] },
    }, [[...start, end[last]], [...score, score[last]]], figure);
    say(null);
    return plot;
  }

  draw();
  keep(draw);
})();
