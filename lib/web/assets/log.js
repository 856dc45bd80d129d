// The logs on a build's page. A log is cut into pieces of so many lines; of each
// there is a list, and only those near the screen have anything in them. The
// server makes the lines; see package web.
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const PIECE = 100, HEIGHT = 18, MOST = 1_000_000;
const form = $("#logfind"), base = form.dataset.base;
const followButton = $('[data-do="follow"]'), foundText = $("#found"), findInput = $("#find");
const logs = new Map(); // details → Log
let following = false, ours = 0;

const near = new IntersectionObserver((entries) => {
  for (const e of entries) {
    const piece = e.target.piece;
    clearTimeout(piece.timer);
    piece.wanted = e.isIntersecting;
    // What only flies past is not asked for.
    if (e.isIntersecting) piece.timer = setTimeout(() => piece.load(), 40);
    else piece.unload(e.boundingClientRect.height);
  }
}, { rootMargin: "1000px 0px" });

class Piece {
  constructor(log, index, full) {
    this.log = log; this.index = index; this.count = 0; this.loaded = full; this.height = 0;
    this.list = document.createElement("ol");
    this.list.className = "lines";
    this.list.piece = this;
    log.box.append(this.list);
    near.observe(this.list);
  }
  get first() { return this.index * PIECE + 1; }
  grow(count) {
    this.count = Math.max(this.count, count);
    if (!this.loaded) this.list.style.height = `${this.height || this.count * HEIGHT}px`;
  }
  load() {
    if (this.loaded) return Promise.resolve();
    return this.loading ??= this.fetch().finally(() => { this.loading = null; });
  }
  async fetch() {
    this.asked = new AbortController();
    try {
      const reply = await fetch(`${base}${this.log.name}?part&lines=${this.first}-${this.first + PIECE - 1}`, { signal: this.asked.signal });
      const text = await reply.text();
      if (reply.ok && !this.loaded) this.fill(text);
    } catch (e) {
      if (e.name !== "AbortError") setTimeout(() => { if (this.wanted) this.load(); }, 2000); // the server may be back by then
    }
  }
  fill(html) {
    const t = document.createElement("template");
    t.innerHTML = html;
    this.list.replaceChildren(t.content);
    this.list.style.height = "";
    this.loaded = true;
    this.count = Math.max(this.count, this.list.childElementCount);
    this.log.total = Math.max(this.log.total, this.first + this.list.childElementCount - 1);
    highlight();
    choose();
  }
  unload(height) {
    if (this.held) return;
    this.asked?.abort(); // nobody wants it any more
    if (!this.loaded || !this.count) return;
    this.log.paint();
    this.height = height;
    this.list.style.height = `${this.height}px`;
    this.list.replaceChildren();
    this.loaded = false;
  }
}

class Log {
  constructor(details) {
    this.details = details;
    this.box = $(".log", details);
    this.anchor = details.dataset.anchor;
    this.pieces = [];
    this.pending = [];
    this.total = 0;
    details.addEventListener("toggle", () => this.update());
  }
  get running() { return "running" in $("summary", this.details).dataset; }
  // Begins, goes on or stops as the step is.
  update() {
    const name = $("summary", this.details).dataset.log;
    if (name && this.name && name !== this.name) this.reset(); // another attempt
    this.name = name;
    if (!this.details.open || !name) { this.stop(); return; }
    this.ready ??= this.begin();
    if (this.running && !this.over) this.ready.then(() => this.listen());
  }
  reset() {
    this.stop();
    for (const p of this.pieces) near.unobserve(p.list);
    Object.assign(this, { pieces: [], pending: [], total: 0, ready: null, over: false });
    delete this.box.dataset.lines;
    this.box.replaceChildren();
  }
  async begin() {
    const sent = $$("li", this.box); // the end of it, which came with the page
    this.total = Number(this.box.dataset.lines ?? 0);
    if (!this.total) {
      const reply = await fetch(`${base}${this.name}?part&lines=1-${PIECE}`);
      if (reply.ok) {
        this.total = Number(reply.headers.get("Log-Lines"));
        var head = await reply.text();
      }
    }
    this.box.replaceChildren();
    if (this.total > MOST) {
      const note = document.createElement("p");
      note.className = "wait";
      note.textContent = `The first ${MOST.toLocaleString("en")} of ${this.total.toLocaleString("en")} lines; “Read the log” has all of them.`;
      this.details.querySelector(".body").insertBefore(note, this.box);
      this.total = MOST;
      this.over = true;
    }
    for (let i = 0; i * PIECE < this.total; i++) {
      const piece = new Piece(this, i, false);
      piece.grow(Math.min(PIECE, this.total - i * PIECE));
      this.pieces.push(piece);
    }
    const last = this.pieces.at(-1);
    if (head && this.pieces.length) this.pieces[0].fill(head);
    else if (last && sent.length >= last.count) {
      last.list.replaceChildren(...sent.slice(-last.count));
      last.list.style.height = "";
      last.loaded = true;
    }
  }
  listen() {
    if (this.stream || this.over || !this.details.open) return;
    // The last line may not have been whole.
    this.stream = new EventSource(`${base}${this.name}?follow=${Math.max(1, this.total)}`);
    this.stream.addEventListener("lines", (e) => {
      this.pending.push(e.data);
      if (this.pending.length === 1) requestAnimationFrame(() => this.paint());
      if (document.hidden && this.pending.length > 50) this.paint();
    });
    this.stream.addEventListener("end", () => { this.over = true; this.stop(); });
  }
  stop() {
    this.stream?.close();
    this.stream = null;
  }
  // Puts what has come where it belongs.
  paint() {
    if (!this.pending.length) return;
    const t = document.createElement("template");
    t.innerHTML = this.pending.join("\n");
    this.pending = [];
    for (const line of [...t.content.children]) {
      const n = Number(line.id.slice(line.id.lastIndexOf(":") + 1)), i = Math.floor((n - 1) / PIECE);
      if (n > MOST) { this.over = true; this.stop(); break; }
      while (this.pieces.length <= i) this.pieces.push(new Piece(this, this.pieces.length, true));
      const piece = this.pieces[i], at = n - piece.first;
      this.total = Math.max(this.total, n);
      if (piece.loaded && at <= piece.list.childElementCount) {
        if (at < piece.list.childElementCount) piece.list.children[at].replaceWith(line);
        else piece.list.append(line);
      }
      piece.grow(at + 1);
    }
    if (following) this.toEnd();
    choose();
  }
  async show(n) {
    this.details.open = true;
    this.update();
    await this.ready;
    if (!this.total) return null;
    const piece = this.pieces[Math.floor((Math.min(n, this.total) - 1) / PIECE)];
    piece.held = true; // until it is where the reader looks
    setTimeout(() => { piece.held = false; if (!piece.wanted) piece.unload(piece.list.offsetHeight); }, 1000);
    await piece.load();
    return piece.list.children[Math.min(n, this.total) - piece.first];
  }
  toEnd() {
    ours = Date.now();
    this.box.scrollIntoView({ block: "end" });
    if (this.box.getBoundingClientRect().bottom > innerHeight - 4) scrollBy(0, 12);
  }
}

// Links to lines: #step:line, #step:from-to.
function target() {
  const m = /^#([A-Za-z0-9_-]+):(\d+)(?:-(\d+))?$/.exec(decodeURIComponent(location.hash));
  return m && { anchor: m[1], from: Number(m[2]), to: Number(m[3] ?? m[2]) };
}
function choose() {
  const t = target();
  for (const e of $$(".lines .chosen")) {
    const n = Number(e.id.split(":")[1]);
    if (!t || e.id.split(":")[0] !== t.anchor || n < t.from || n > t.to) e.classList.remove("chosen");
  }
  if (!t) return;
  for (let n = t.from; n <= Math.min(t.to, t.from + 1000); n++) document.getElementById(`${t.anchor}:${n}`)?.classList.add("chosen");
}
async function visit(anchor, line) {
  const log = [...logs.values()].find((l) => l.anchor === anchor);
  const e = await log?.show(line);
  if (!e) return;
  follow(false);
  // Once more when the pieces around it have their heights.
  for (let i = 0; i < 3; i++) {
    e.scrollIntoView({ block: "center" });
    await new Promise((done) => setTimeout(done, 60));
    if (!e.isConnected) return visit(anchor, line);
  }
  choose();
}
function arrive() {
  const t = target();
  if (t) visit(t.anchor, t.from);
  else if (location.hash.startsWith("#step-")) { const d = document.getElementById(location.hash.slice(1)); if (d) { d.open = true; d.scrollIntoView(); } }
}
addEventListener("hashchange", () => { choose(); const t = target(); if (t && !document.getElementById(`${t.anchor}:${t.from}`)) arrive(); });
addEventListener("click", (e) => {
  const a = e.target.closest(".lines li > a");
  if (!a) return;
  e.preventDefault();
  const [anchor, line] = a.hash.slice(1).split(":"), t = target();
  const range = e.shiftKey && t?.anchor === anchor && t.from !== Number(line);
  const [from, to] = range ? [Math.min(t.from, line), Math.max(t.from, line)] : [line, line];
  history.replaceState(null, "", `#${anchor}:${range ? `${from}-${to}` : line}`);
  follow(false);
  choose();
});

// Following: the end of the log that grows stays in sight.
const growing = () => [...logs.values()].filter((l) => l.running && l.details.open && !l.over).at(-1);
function follow(on) {
  const log = growing();
  followButton.textContent = log ? "Follow" : "To the end";
  following = Boolean(on && log);
  if (log) followButton.setAttribute("aria-pressed", String(following));
  else followButton.removeAttribute("aria-pressed");
  if (following) log.toEnd();
}
async function toEnd() {
  if (growing()) { follow(!following); return; }
  const log = [...logs.values()].filter((l) => l.details.open && l.total).at(-1);
  if (!log) return;
  await log.show(log.total);
  log.toEnd();
}
addEventListener("scroll", () => {
  if (!following || Date.now() - ours < 250) return;
  const log = growing();
  if (log && log.box.getBoundingClientRect().bottom > innerHeight + 80) follow(false);
}, { passive: true });
for (const type of ["wheel", "touchmove"]) addEventListener(type, () => { ours = 0; }, { passive: true });
followButton.addEventListener("click", toEnd);

// Find, in all logs of the build.
let places = [], place = -1, sought = "";
async function find() {
  sought = findInput.value.trim();
  places = []; place = -1;
  highlight();
  if (!sought) { foundText.textContent = ""; return; }
  const what = sought;
  let more = false;
  foundText.textContent = "…";
  for (const log of logs.values()) {
    const name = $("summary", log.details).dataset.log;
    if (!name) continue;
    const reply = await fetch(`${base}${name}?part&find=${encodeURIComponent(what)}`);
    if (what !== sought) return;
    if (!reply.ok) { foundText.textContent = "not possible"; return; }
    const found = await reply.json();
    more ||= found.more;
    for (const line of found.lines) places.push({ anchor: log.anchor, line });
  }
  find.more = more;
  if (!places.length) { foundText.textContent = "nothing"; return; }
  step(1);
}
function step(by) {
  if (!places.length) return;
  place = (place + by + places.length) % places.length;
  foundText.textContent = `${place + 1} of ${places.length}${find.more ? "+" : ""}`;
  const { anchor, line } = places[place];
  history.replaceState(null, "", `#${anchor}:${line}`);
  visit(anchor, line);
}
// The text that was looked for is marked where it can be seen, without a change
// to the lines.
function highlight() {
  if (!CSS.highlights) return;
  CSS.highlights.delete("found");
  if (!sought) return;
  const what = sought.toLowerCase(), ranges = [];
  for (const e of $$(".lines .t")) {
    const text = e.textContent.toLowerCase();
    for (let at = text.indexOf(what); at >= 0 && ranges.length < 2000; at = text.indexOf(what, at + what.length)) {
      const range = new Range();
      if (edge(e, at, (n, o) => range.setStart(n, o)) && edge(e, at + what.length, (n, o) => range.setEnd(n, o))) ranges.push(range);
    }
  }
  CSS.highlights.set("found", new Highlight(...ranges));
}
function edge(root, at, set) {
  const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  for (let n = texts.nextNode(); n; n = texts.nextNode()) {
    if (at <= n.length) { set(n, at); return true; }
    at -= n.length;
  }
  return false;
}
form.addEventListener("submit", (e) => {
  e.preventDefault();
  if (findInput.value.trim() === sought && places.length) step(1);
  else find();
});
findInput.addEventListener("input", () => { if (!findInput.value) find(); });
$('[data-do="previous"]').addEventListener("click", () => step(-1));
$('[data-do="next"]').addEventListener("click", () => (places.length && findInput.value.trim() === sought ? step(1) : find()));

addEventListener("keydown", (e) => {
  if (!$("#keys").checked || e.ctrlKey || e.metaKey || e.altKey || e.defaultPrevented || $("#help").open || e.target.closest("input, textarea, select")) return;
  const steps = $$("details.step");
  switch (e.key) {
    case "n": step(1); break;
    case "p": step(-1); break;
    case "f": toEnd(); break;
    case "e": { const open = steps.some((d) => !d.open); for (const d of steps) d.open = open; break; }
    case "t": follow(false); scrollTo(0, 0); break;
    case "b": scrollTo(0, document.documentElement.scrollHeight); break;
    default: return;
  }
  e.preventDefault();
});

// Steps come and go on.
function steps() {
  let fresh = null;
  for (const d of $$("details.step")) {
    if (!logs.has(d)) logs.set(d, new Log(d));
    const log = logs.get(d);
    const running = log.running;
    if (running && !log.seen && (following || !$$("details.step[open]").length)) fresh = d;
    log.seen ||= running;
    log.update();
  }
  for (const d of logs.keys()) if (!d.isConnected) { logs.get(d).stop(); logs.delete(d); }
  if (fresh) fresh.open = true;
  follow(following || Boolean(fresh));
}
document.addEventListener("refreshed", steps);
steps();
if (location.hash) arrive();
else if (growing()) follow(true);
