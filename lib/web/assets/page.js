// What moves on every page: times, colours, keys, and states that change.
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const store = {
  get(name) { try { return localStorage.getItem(name); } catch { return null; } },
  set(name, value) { try { value === null ? localStorage.removeItem(name) : localStorage.setItem(name, value); } catch { /* for this page only */ } },
};

// Times, which the server tells in UTC, in the reader's zone.
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const zoned = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });
const relative = new Intl.RelativeTimeFormat("en", { style: "narrow", numeric: "auto" });
function ago(date) {
  const seconds = (date - Date.now()) / 1000;
  for (const [unit, size, most] of [["second", 1, 60], ["minute", 60, 60], ["hour", 3600, 24], ["day", 86400, 14]]) {
    if (Math.abs(seconds) < size * most) return unit === "second" && seconds > -5 ? "now" : relative.format(Math.trunc(seconds / size), unit);
  }
  return date.toLocaleDateString(undefined, { dateStyle: "medium" });
}
function span(ms) {
  const s = Math.max(0, Math.floor(ms / 1000)), m = Math.floor(s / 60), h = Math.floor(m / 60);
  if (s < 60) return `${s} s`;
  return h ? `${h} h ${m % 60} min` : `${m} min ${s % 60} s`;
}
const put = (e, text) => { if (e.textContent !== text) e.textContent = text; };
function times(root = document) {
  for (const e of $$("time[datetime]", root)) {
    const date = new Date(e.dateTime);
    put(e, "ago" in e.dataset ? ago(date) : full.format(date));
    if (!e.title) e.title = zoned.format(date);
  }
  for (const e of $$("[data-since]", root)) put(e, span(Date.now() - new Date(e.dataset.since)));
}
for (const e of $$("[data-live]")) e.sent = e.outerHTML; // as the server has made it
times();
setInterval(() => { if (!document.hidden) times(); }, 1000);

// Colours: as the system, light, dark.
const toggle = $('[data-do="theme"]');
function theme(name) {
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
  const text = `Colours: ${name || "as the system"}`;
  toggle.setAttribute("aria-label", text);
  toggle.title = text;
}
theme(document.documentElement.dataset.theme ?? "");
toggle.addEventListener("click", () => {
  const next = { "": "light", light: "dark", dark: "" }[document.documentElement.dataset.theme ?? ""];
  store.set("distci-theme", next || null);
  theme(next);
});

// States: the page is asked for again, and what has changed is put in place.
// The server makes all of it; here is nothing that knows what a build is.
const status = $("#status");
function refresh(fresh) {
  const focused = document.activeElement?.id;
  for (const e of $$("[data-live-children]")) {
    const now = fresh.getElementById(e.id);
    if (!now) continue;
    const ids = new Set([...now.children].map((c) => c.id));
    for (const c of [...e.children]) if (!ids.has(c.id)) c.remove();
    for (const c of [...now.children]) if (!document.getElementById(c.id)) e.append(document.adoptNode(c));
  }
  for (const e of $$("[data-live]")) {
    const now = fresh.getElementById(e.id);
    if (!now || now.outerHTML === e.sent) continue;
    if (e.contains(document.activeElement) && e !== document.activeElement && !focused) continue; // do not take it away from under a reader's hands
    const state = e.dataset.state;
    e.sent = now.outerHTML;
    const open = new Map($$("details[id]", e).map((d) => [d.id, d.open]));
    for (const a of [...e.attributes]) if (!now.hasAttribute(a.name)) e.removeAttribute(a.name);
    for (const a of [...now.attributes]) e.setAttribute(a.name, a.value);
    e.replaceChildren(...now.childNodes);
    for (const d of $$("details[id]", e)) if (open.has(d.id)) d.open = open.get(d.id);
    times(e);
    if (state && state !== e.dataset.state) status.textContent = `${e.dataset.name}: ${e.dataset.state}`;
  }
  if (focused && document.activeElement === document.body) document.getElementById(focused)?.focus({ preventScroll: true });
  for (const name of ["refresh", "events"]) {
    if (fresh.body.dataset[name]) document.body.dataset[name] = fresh.body.dataset[name];
    else delete document.body.dataset[name];
  }
  document.dispatchEvent(new CustomEvent("refreshed"));
}
let looking = false, again = false, failures = 0, timer = 0;
async function look() {
  if (looking) { again = true; return; }
  looking = true;
  try {
    const reply = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (!reply.ok) throw new Error(reply.status);
    refresh(new DOMParser().parseFromString(await reply.text(), "text/html"));
    if (failures > 2) status.textContent = "Connected again";
    failures = 0;
  } catch {
    if (++failures === 3) status.textContent = "The server does not answer; still trying";
  }
  looking = false;
  plan();
}
// Events tell when to look, if there are any; else we look every few seconds,
// less often after failures, and not at all while nobody sees the page.
let events = null, told = false;
function plan() {
  clearTimeout(timer);
  const seconds = Number(document.body.dataset.refresh);
  if (!document.body.dataset.events || document.hidden) { events?.close(); events = null; told = false; }
  if (!seconds || document.hidden) return;
  listen();
  const wait = again ? 0.3 : told ? Math.max(15, seconds) : seconds * Math.min(8, 1 + failures);
  again = false;
  timer = setTimeout(look, wait * 1000);
}
function listen() {
  const address = document.body.dataset.events;
  if (!address || events) return;
  events = new EventSource(address);
  const news = () => { told = true; clearTimeout(timer); timer = setTimeout(look, 150); };
  for (const type of ["message", "state", "build", "step", "end", "complete"]) events.addEventListener(type, news);
  events.onerror = () => { told = false; if (events.readyState === EventSource.CLOSED) plan(); };
}
document.addEventListener("visibilitychange", () => { if (document.hidden) plan(); else if (document.body.dataset.refresh) look(); });
plan();

// A second click does not begin a second build.
addEventListener("submit", (e) => {
  if (e.target.method !== "post") return;
  if (e.target.dataset.sent) e.preventDefault();
  e.target.dataset.sent = "1";
});
addEventListener("pageshow", () => { for (const f of $$("form[data-sent]")) delete f.dataset.sent; });

// Keys.
const help = $("#help"), keys = $("#keys");
keys.checked = store.get("distci-keys") !== "off";
keys.addEventListener("change", () => store.set("distci-keys", keys.checked ? null : "off"));
$('[data-do="help"]').addEventListener("click", () => help.showModal());
let g = -Infinity; // when it was pressed
addEventListener("keydown", (e) => {
  if (!keys.checked || e.ctrlKey || e.metaKey || e.altKey || e.defaultPrevented || help.open || e.target.closest("input, textarea, select")) return;
  const go = { j: "/ui/", q: "/ui/queue", w: "/ui/workers" }[e.key];
  if (go && e.timeStamp - g < 1200) location.assign(go);
  else if (e.key === "g") g = e.timeStamp;
  else if (e.key === "?") help.showModal();
  else if (e.key === "/") $("#find")?.focus();
  else return;
  e.preventDefault();
});
