"use strict";
// What the charts of the page share; ``timeline.js`` and ``sweep.js`` follow.
const report = (() => {
  const data = JSON.parse(document.getElementById("chart-data").textContent);
  const print = matchMedia("print"), dark = matchMedia("(prefers-color-scheme: dark)");
  const PRINT_WIDTH = 690;
  const drawn = [];
  let colours = {};

  const hex = (colour) => colour.length === 4 ? "#" + [...colour.slice(1)].map((c) => c + c).join("") : colour;
  const colour = (name, share = 1) => hex(colours[name]) + Math.round(share * 255).toString(16).padStart(2, "0");
  const number = (v) => v == null ? "none" : Math.abs(v) >= 1e6 ? v.toExponential(3) : String(+v.toPrecision(4));

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
  return { data, axis, colour, keep, marks, number, print, PRINT_WIDTH, id: (name) => document.getElementById(name) };
})();
