// What things look like and how they are said: states, colours, icons, times, numbers.
export const STATES = {
  high: { word: "High", said: "severe episode", tone: "bad", rank: 0, icon: "M8 1 15.5 14.5H.5Z" },
  medium: { word: "Medium", said: "episode", tone: "warn", rank: 1, icon: "M8 .6 15.4 8 8 15.4.6 8Z" },
  low: { word: "Low", said: "slight episode", tone: "unsure", rank: 2, icon: "M8 2a6 6 0 1 1 0 12A6 6 0 1 1 8 2Z" },
  silent: { word: "Silent", said: "silent", tone: "other", rank: 3,
    icon: "M2 3.6 3.6 2 8 6.4 12.4 2 14 3.6 9.6 8 14 12.4 12.4 14 8 9.6 3.6 14 2 12.4 6.4 8Z" },
  sensor: { word: "Sensor", said: "sensor fault", tone: "now", rank: 4,
    icon: "M8 1.5a6.5 6.5 0 1 1 0 13a6.5 6.5 0 1 1 0-13ZM8 3.6a4.4 4.4 0 1 0 0 8.8a4.4 4.4 0 1 0 0-8.8ZM8 6.2a1.8 1.8 0 1 1 0 3.6a1.8 1.8 0 1 1 0-3.6Z" },
  maintenance: { word: "Maintenance", said: "planned maintenance", tone: "usual", rank: 5, icon: "M3 2h3.6v12H3ZM9.4 2H13v12H9.4Z" },
  warming: { word: "Warming up", said: "warming up", tone: "usual", rank: 6,
    icon: "M8 1.5a6.5 6.5 0 1 1 0 13a6.5 6.5 0 1 1 0-13ZM8 3.4a4.6 4.6 0 1 0 0 9.2Z" },
  normal: { word: "Normal", said: "normal", tone: "good", rank: 7, icon: "M6.2 13.4 1.4 8.6 3 7l3.2 3.2L13 3.4 14.6 5Z" },
};
export const SEVERITIES = ["high", "medium", "low"];
/** States that somebody has to do something about. */
export const WRONG = ["high", "medium", "low", "silent", "sensor"];

const dark = matchMedia("(prefers-color-scheme: dark)");
let colours = {};
const painters = [];
function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["page", "text", "quiet", "line", "card", "usual", "now", "other", "bad", "warn", "unsure", "good", "grid", "on", "tile"])
    colours[name] = style.getPropertyValue("--" + name).trim();
}
dark.addEventListener("change", () => { readColours(); for (const paint of painters) paint(); });
readColours();

/** Call whenever colours change. */
export const onColours = (paint) => painters.push(paint);
const hex = (text) => text.length === 4 ? "#" + [...text.slice(1)].map((c) => c + c).join("") : text;
export const colour = (name, share = 1) => hex(colours[name]) + Math.round(share * 255).toString(16).padStart(2, "0");

/** An element with text; whatever machines and people wrote goes in here, never into HTML. */
export function make(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "text") element.textContent = value;
    else if (name === "on") for (const [event, act] of Object.entries(value)) element.addEventListener(event, act);
    else if (name === "class") element.className = value;
    else if (value !== undefined && value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";
export function icon(state) {
  const svg = document.createElementNS(SVG, "svg"), path = document.createElementNS(SVG, "path");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("class", `icon tone-${STATES[state].tone}`);
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", STATES[state].icon);
  svg.append(path);
  return svg;
}

/** A horizontal bar of a share in [0, 1]. */
export function bar(share, tone) {
  const svg = document.createElementNS(SVG, "svg"), rect = document.createElementNS(SVG, "rect");
  svg.setAttribute("class", "bar");
  svg.setAttribute("viewBox", "0 0 100 10");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  rect.setAttribute("width", String(Math.max(1, Math.min(100, 100 * share))));
  rect.setAttribute("height", "10");
  rect.setAttribute("class", `tone-${tone}`);
  svg.append(rect);
  return svg;
}

let skew_ms = 0;
/** What the server's clock says. */
export const now = () => Date.now() + skew_ms;
export const setNow = (server_ms) => { skew_ms = server_ms - Date.now(); };

export function duration(ms) {
  const minutes = Math.round(ms / 60000);
  if (minutes < 1) return "less than a minute";
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 && hours < 10 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  const days = Math.floor(hours / 24);
  return days < 10 && hours % 24 ? `${days} d ${hours % 24} h` : `${days} d`;
}
const same = (a, b) => a.toDateString() === b.toDateString();
export function moment(ms, seconds = false) {
  const at = new Date(ms), options = { hour: "2-digit", minute: "2-digit", hour12: false };
  if (seconds) options.second = "2-digit";
  const clock = at.toLocaleTimeString("en-GB", options);
  return same(at, new Date(now())) ? clock : `${at.toLocaleDateString("en-GB", { day: "numeric", month: "short" })}, ${clock}`;
}
export const since = (ms) => `since ${moment(ms)} (${duration(now() - ms)})`;
export const ms = (text) => Date.parse(text);
export const number = (v) => v === null || v === undefined ? "none" : Math.abs(v) >= 1e6 ? v.toExponential(3) : String(+v.toPrecision(4));
export const count = (n) => n.toLocaleString("en");
export const plural = (n, one, many = one + "s") => `${count(n)} ${n === 1 ? one : many}`;
export const order = new Intl.Collator("en", { numeric: true }).compare;
