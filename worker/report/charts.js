"use strict";
// What the charts of the page share; the scripts that draw them follow.
const report = (() => {
  const data = JSON.parse(document.getElementById("chart-data").textContent);
  const print = matchMedia("print"), dark = matchMedia("(prefers-color-scheme: dark)");
  const PRINT_WIDTH = 690;
  const drawn = [];
  let colours = {};

  const hex = (colour) => colour.length === 4 ? "#" + [...colour.slice(1)].map((c) => c + c).join("") : colour;
  const colour = (name, share = 1) => hex(colours[name]) + Math.round(share * 255).toString(16).padStart(2, "0");
  const number = (v) => v == null ? "none" : Math.abs(v) >= 1e6 ? v.toExponential(3) : String(+v.toPrecision(4));

  const utc = (s) => uPlot.tzDate(new Date(s * 1e3), "Etc/UTC");
  /** How wide a chart in an element is: so many columns share the width of paper. */
  const fit = (element, columns = 1) => print.matches ? PRINT_WIDTH / columns - 5 * columns : Math.max(element.clientWidth, 150);

  function readColours() {
    const style = getComputedStyle(document.documentElement);
    for (const name of ["text", "quiet", "grid", "line", "now", "other", "bad", "good", "unsure", "usual"])
      colours[name] = style.getPropertyValue("--" + name).trim();
  }

  function marks(_, values) {
    const step = Math.abs(values[1] - values[0]) || 1, most = Math.max(...values.map(Math.abs));
    if (step < 1e-5) return values.map((v) => v.toExponential(1));
    const options = most < 1e6 ? { maximumFractionDigits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) } : { notation: "compact", maximumFractionDigits: 2 };
    return values.map((v) => v.toLocaleString("en", options));
  }

  const DAY = 86400;
  // Steps of the axis of time: from how many seconds on, what stands at each, and below where the day changes.
  const clock = [[365 * DAY, "{YYYY}", null], [28 * DAY, "{MMM}", "\n{YYYY}"], [DAY, "{D} {MMM}", null], [60, "{HH}:{mm}", "\n{D} {MMM}"],
    [1, "{HH}:{mm}:{ss}", "\n{D} {MMM}"], [0.001, "{ss}.{fff}", "\n{D} {MMM} {HH}:{mm}"]].map(([from, each, day]) =>
    [from, each, from === 28 * DAY ? day : null, null, from < DAY ? day : null, null, null, null, 1]);

  function axis(options) {
    return { stroke: colours.quiet, grid: { stroke: colours.grid, width: 1 }, ticks: { stroke: colours.line, width: 1 },
      font: "11px system-ui, sans-serif", ...options };
  }

  function again() {
    readColours();
    for (const draw of drawn) draw();
  }

  /** Draw again whenever colours or the width change. */
  const keep = (draw) => drawn.push(draw);

  readColours();
  let waiting = 0;
  for (const query of [print, dark]) query.addEventListener("change", again);
  addEventListener("resize", () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(again); });
  return { data, axis, clock, colour, fit, keep, marks, number, utc, id: (name) => document.getElementById(name) };
})();
