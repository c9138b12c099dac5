// Server-sent events by fetch, so that the token travels in a header; tries again by itself.
const STALE_MS = 15000, SHORTEST_MS = 500, LONGEST_MS = 15000;

export const token = {
  get: () => sessionStorage.getItem("token"),
  set: (value) => sessionStorage.setItem("token", value),
};
export const headers = () => token.get() ? { Authorization: `Bearer ${token.get()}` } : {};

/**
 * Keeps a stream open until it is told another place to read.
 * told: gets (event, data); state: gets "live", "stale" or "refused" whenever that changes.
 */
export class Stream {
  constructor(told, state) {
    Object.assign(this, { told, state, machine: null, place: "", heard_ms: Date.now(), said: "", pause_ms: SHORTEST_MS });
    setInterval(() => this.check(), 1000);
    addEventListener("online", () => this.restart());
    document.addEventListener("visibilitychange", () => { if (!document.hidden && this.said === "stale") this.restart(); });
  }

  say(state) {
    if (state !== this.said) this.state(this.said = state);
  }

  check() {
    if (this.said !== "refused" && Date.now() - this.heard_ms > STALE_MS) { this.say("stale"); this.restart(); this.heard_ms = Date.now(); }
  }

  /** Read from where it was, with this machine open. */
  open(machine) {
    this.machine = machine;
    this.restart();
  }

  restart() {
    clearTimeout(this.timer);
    this.control?.abort();
    this.read(this.control = new AbortController());
  }

  async read(control) {
    const asked = new URLSearchParams({ place: this.place });
    if (this.machine !== null) asked.set("machine", this.machine);
    try {
      const answer = await fetch(`live?${asked}`, { headers: headers(), signal: control.signal, cache: "no-store" });
      if (answer.status === 401 || answer.status === 403) { this.say("refused"); return; }
      if (!answer.ok) throw new Error(String(answer.status));
      await this.parse(answer.body.pipeThrough(new TextDecoderStream()).getReader(), control);
    } catch {
      // Whatever it was: said below, and tried again.
    }
    if (control.signal.aborted) return;
    this.say("stale");
    this.timer = setTimeout(() => this.restart(), this.pause_ms * (0.5 + Math.random()));
    this.pause_ms = Math.min(2 * this.pause_ms, LONGEST_MS);
  }

  async parse(reader, control) {
    let rest = [];
    for (;;) {
      const { done, value } = await reader.read();
      if (done || control.signal.aborted) return;
      const parts = value.split("\n\n");
      rest.push(parts.shift());
      for (const part of parts) {
        this.event(rest.join(""));
        rest = [part];
      }
    }
  }

  event(text) {
    const name = /^event: (\w+)$/m.exec(text)?.[1], at = text.indexOf("\ndata: ");
    if (!name || at < 0) return;
    this.heard_ms = Date.now();
    this.pause_ms = SHORTEST_MS;
    const data = JSON.parse(text.slice(at + 7));
    this.place = data.place;
    this.told(name, data);
    this.say("live");
  }
}
