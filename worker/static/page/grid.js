// The fleet as tiles on a canvas that is as large as what is seen of it.
import { STATES, colour, moment, now, onColours, order } from "./look.js";

// Width, height and gap of a tile in pixels, and what is on it.
const SIZES = [
  { w: 148, h: 60, gap: 8, name: true, why: true }, { w: 112, h: 46, gap: 6, name: true, why: true },
  { w: 100, h: 40, gap: 5, name: true, why: true }, { w: 84, h: 28, gap: 4, name: true },
  { w: 30, h: 30, gap: 3 }, { w: 20, h: 20, gap: 2 }, { w: 14, h: 14, gap: 2 }, { w: 9, h: 9, gap: 1 },
];
const paths = Object.fromEntries(Object.entries(STATES).map(([state, { icon }]) => [state, new Path2D(icon)]));
/** A length of time in its largest unit. */
function age(ms) {
  const minutes = Math.round(ms / 60000);
  return minutes < 60 ? `${minutes} min` : minutes < 1440 ? `${Math.floor(minutes / 60)} h` : `${Math.floor(minutes / 1440)} d`;
}
const LOUD = ["high", "medium"];

export class Grid {
  /** chosen: called with a machine's id; element: scrolls. */
  constructor(element, canvas, spacer, option, tip, chosen) {
    Object.assign(this, { element, canvas, spacer, option, tip, chosen });
    this.ctx = canvas.getContext("2d");
    this.tiles = new Map();
    this.shown = [];
    this.filter = { text: "", states: new Set() };
    this.at = null;
    this.open = null;
    this.size = SIZES[0];
    this.waiting = 0;
    onColours(() => this.later());
    new ResizeObserver(() => this.arrange()).observe(element);
    element.addEventListener("scroll", () => this.later());
    element.addEventListener("click", (e) => { const id = this.under(e); if (id !== null) { this.move(id); this.chosen(id); } });
    element.addEventListener("mousemove", (e) => this.hover(this.under(e)));
    element.addEventListener("mouseleave", () => this.hover(null));
    element.addEventListener("keydown", (e) => this.key(e));
    element.addEventListener("focus", () => { if (this.at === null && this.shown.length) this.move(this.shown[0]); this.later(); });
    element.addEventListener("blur", () => this.later());
  }

  replace(tiles) {
    this.tiles = new Map(tiles.map((tile) => [tile[0], tile]));
    this.arrange();
  }

  change(tiles, gone) {
    const before = this.tiles.size;
    const filtered = this.filter.states.size > 0;
    let fresh = false;
    for (const tile of tiles) { fresh ||= !this.tiles.has(tile[0]); this.tiles.set(tile[0], tile); }
    for (const id of gone) this.tiles.delete(id);
    if (fresh || filtered || this.tiles.size !== before) this.arrange(); else this.later();
  }

  setFilter(filter) {
    Object.assign(this.filter, filter);
    this.element.scrollTop = 0;
    this.arrange();
  }

  /** Which machines are shown, in which order and size: the largest tiles that all fit, if any do. */
  arrange() {
    const { text, states } = this.filter, wanted = text.toLowerCase();
    const found = [];
    for (const [id, tile] of this.tiles)
      if ((!states.size || states.has(tile[1])) && (!wanted || id.toLowerCase().includes(wanted))) found.push(id);
    if (found.length !== this.shown.length || found.some((id) => !this.places?.has(id))) {
      this.shown = found.sort(order);
      this.places = new Map(this.shown.map((id, place) => [id, place]));
    }
    const width = this.element.clientWidth - 2, height = this.element.clientHeight - 2;
    const sizes = width < 500 ? SIZES.slice(1) : SIZES;
    const rows = (size) => Math.ceil(this.shown.length / this.across(size, width));
    this.size = sizes.find((size) => rows(size) * (size.h + size.gap) <= height) ?? sizes[sizes.length - 1];
    this.columns = this.across(this.size, width);
    // Names get what is left over of the width.
    this.stretch = this.size.name ? (width - this.columns * this.size.gap + this.size.gap) / this.columns : this.size.w;
    if (this.size.name) this.stretch = Math.min(this.stretch, this.size.w * 1.35);
    const full = rows(this.size) * (this.size.h + this.size.gap) + 2;
    this.spacer.style.height = `${full}px`;
    this.later();
  }

  across(size, width) { return Math.max(1, Math.floor((width + size.gap) / (size.w + size.gap))); }

  place(n) {
    const x = (n % this.columns) * (this.stretch + this.size.gap), y = Math.floor(n / this.columns) * (this.size.h + this.size.gap);
    return [x + 1, y + 1];
  }

  under(e) {
    const box = this.element.getBoundingClientRect();
    const x = e.clientX - box.left - this.element.clientLeft, y = e.clientY - box.top - this.element.clientTop + this.element.scrollTop;
    const column = Math.floor(x / (this.stretch + this.size.gap)), row = Math.floor(y / (this.size.h + this.size.gap));
    const n = row * this.columns + column;
    return column >= 0 && column < this.columns && n < this.shown.length ? this.shown[n] ?? null : null;
  }

  words(id) {
    const [, state, since_ms, why, acknowledged] = this.tiles.get(id);
    const parts = [id, STATES[state].said];
    if (why && why !== state) parts.push(why);
    if (since_ms !== null) parts.push(`since ${moment(since_ms)}`);
    if (acknowledged) parts.push("acknowledged");
    return parts.join(" · ");
  }

  hover(id) {
    this.hovered = id;
    this.element.style.cursor = id === null ? "default" : "pointer";
    this.tip.textContent = id !== null ? this.words(id) : this.at !== null && this.tiles.has(this.at) ? this.words(this.at) : "\u00a0";
    this.later();
  }

  move(id) {
    this.at = id;
    this.option.textContent = this.words(id);
    this.tip.textContent = this.words(id);
    const [, y] = this.place(this.places.get(id)), { scrollTop, clientHeight } = this.element;
    if (y < scrollTop) this.element.scrollTop = y - 4;
    if (y + this.size.h > scrollTop + clientHeight) this.element.scrollTop = y + this.size.h + 4 - clientHeight;
    this.later();
  }

  key(e) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns, Home: -Infinity, End: Infinity,
      PageUp: -this.columns * 5, PageDown: this.columns * 5 };
    if (e.key === "Enter" && this.at !== null) { this.chosen(this.at); e.preventDefault(); }
    if (!(e.key in steps) || !this.shown.length) return;
    e.preventDefault();
    const from = this.places.get(this.at) ?? 0;
    this.move(this.shown[Math.min(Math.max(from + steps[e.key], 0), this.shown.length - 1)]);
  }

  later() {
    this.waiting ||= requestAnimationFrame(() => { this.waiting = 0; this.draw(); });
  }

  draw() {
    const { canvas, ctx, element, size } = this, ratio = devicePixelRatio;
    const width = element.clientWidth, height = element.clientHeight;
    if (!width || !height) return;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
    }
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.clearRect(0, 0, width, height);
    const top = element.scrollTop, pitch = size.h + size.gap;
    canvas.style.transform = `translateY(${top}px)`;
    const first = Math.floor(top / pitch) * this.columns, last = Math.ceil((top + height) / pitch) * this.columns;
    for (let n = Math.max(0, first); n < Math.min(last, this.shown.length); n++) {
      const [x, y] = this.place(n);
      this.tile(this.tiles.get(this.shown[n]), x, y - top);
    }
  }

  tile([id, state, since_ms, why, acknowledged], x, y) {
    const { ctx, size } = this, w = this.stretch, { h } = size, { tone } = STATES[state];
    const loud = LOUD.includes(state) && !acknowledged, wrong = STATES[state].rank < 5;
    ctx.beginPath();
    ctx.roundRect(x, y, w, h, h > 20 ? 5 : h > 12 ? 3 : 1.5);
    ctx.fillStyle = loud ? colour(tone) : wrong ? colour(tone, 0.2) : colour(size.name ? "card" : "tile", 1);
    ctx.fill();
    if (wrong && !loud) { ctx.strokeStyle = colour(tone, size.h > 12 ? 0.9 : 0.6); ctx.lineWidth = 1; ctx.stroke(); }
    if (id === this.open || id === this.at && document.activeElement === this.element || id === this.hovered) {
      ctx.strokeStyle = colour(id === this.hovered ? "quiet" : "text");
      ctx.lineWidth = 2;
      ctx.stroke();
    }
    const ink = loud ? colour("on") : colour(tone);
    if (!size.name) {
      if (state !== "normal") this.icon(state, x + w / 2, y + h / 2, h > 12 ? h * 0.6 : h * 0.7, ink);
      return;
    }
    const mark = size.why ? 15 : 11, left = x + 8;
    if (state !== "normal") this.icon(state, x + w - 8 - mark / 2, y + (size.why ? 9 + mark / 2 : h / 2), mark, ink);
    ctx.textBaseline = "middle";
    ctx.fillStyle = loud ? colour("on") : wrong ? colour("text") : colour("quiet");
    ctx.font = `${wrong ? 600 : 400} ${size.why && h > 50 ? 13 : 12}px system-ui, sans-serif`;
    const line = size.why ? y + h * 0.33 : y + h / 2;
    ctx.fillText(this.cut(id, w - 22 - (state === "normal" ? 0 : mark)), left, line);
    if (!size.why || state === "normal") return;
    ctx.font = "11px system-ui, sans-serif";
    const ago = since_ms === null ? "" : ` ${age(now() - since_ms)}`;
    ctx.fillStyle = loud ? colour("on") : colour("quiet");
    const words = why && why !== state ? why : STATES[state].word.toLowerCase();
    const room = w - 16 - ctx.measureText(ago).width;
    ctx.fillText(this.cut(words, room) + ago, left, y + h * 0.7);
  }

  icon(state, x, y, size, ink) {
    const { ctx } = this;
    ctx.save();
    ctx.translate(x - size / 2, y - size / 2);
    ctx.scale(size / 16, size / 16);
    ctx.fillStyle = ink;
    ctx.fill(paths[state]);
    ctx.restore();
  }

  cut(text, room) {
    const { ctx } = this;
    if (ctx.measureText(text).width <= room) return text;
    let short = text.slice(0, 40);
    while (short.length > 1 && ctx.measureText(short + "…").width > room) short = short.slice(0, -1);
    return short + "…";
  }
}
