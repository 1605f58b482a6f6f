"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const { steps, zero, neighbors, before, after } = data.shown, width = 2 * data.shown.words;
const NO_SPACE_BEFORE = 1, NO_SPACE_AFTER = 2, QUOTE = 4, LINE_END = 8;
const GAIN_STEPS = [0.02, 0.1, 0.3, 1, 3];
const CHANCE_STEPS = [0.001, 0.01, 0.05, 0.2, 0.5, 0.8];
const shared = {}, spans = [], shade = [], element = (id) => document.getElementById(id);
const MODES = [
  { id: "gain", label: "gain of kNN-LM", of: (i) => gain(i) },
  { id: "knn", label: "p kNN", of: (i) => Math.exp(row.knn[i]) },
  { id: "lm", label: "p LM", of: (i) => Math.exp(shared.lm[i]) },
  ...("cache" in data.shared ? [{ id: "cache", label: "p cache", of: (i) => Math.exp(shared.cache[i]) }] : []),
];
let row = data.rows[0], against = null, lambda = row.lmbda; // against: another row, or null for the LM alone
let mode = MODES[0], view = "token", chosen = -1, matches = [], words = [], goal = null;

const nats = (step) => (step === zero ? -Infinity : -step / steps);
const chance = (step) => Math.exp(nats(step));
const mixture = (of, weight, i) => Math.log((1 - weight) * Math.exp(shared.lm[i]) + weight * Math.exp(of.knn[i]));
const mixed = (i) => mixture(row, lambda, i);
const rival = (i) => (against ? mixture(against, against.lmbda, i) : shared.lm[i]);
const text = (word) => data.words[2 * word], flags = (word) => data.words[2 * word + 1];
const percent = (p) => (p >= 0.0995 ? p.toFixed(2) : p >= 0.00095 ? p.toFixed(3) : p > 0 ? p.toExponential(0) : "0");
const signed = (x) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(2);

function gain(i) {
  const [ours, theirs] = [mixed(i), rival(i)];
  return ours === theirs ? 0 : ours - theirs; // equal infinities differ by nothing
}

function make(tag, className, content) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (content !== undefined) made.textContent = content;
  return made;
}

/* Whether a space stands before each next word: punctuation is attached, and quotes open and close in turn. */
function spacing() {
  let glued = true, quoted = false;
  return (word) => {
    const flag = flags(word), closes = flag & QUOTE && quoted;
    const space = !(glued || flag & NO_SPACE_BEFORE || closes);
    glued = Boolean(flag & (NO_SPACE_AFTER | LINE_END)) || Boolean(flag & QUOTE && !quoted);
    quoted = flag & LINE_END ? false : Boolean(flag & QUOTE) !== quoted;
    return space;
  };
}

async function unpack({ type, data: encoded }) {
  const zipped = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
  const stream = new Blob([zipped]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new window[type](await new Response(stream).arrayBuffer());
}

function write() {
  const page = document.createDocumentFragment(), starts = new Map(data.documents);
  let line = null, space = null;
  shared.token.forEach((word, i) => {
    if (starts.has(i)) page.append(make("h2", "", starts.get(i))), (line = null);
    if (!line) page.append((line = make("p"))), (space = spacing());
    if (space(word)) line.append(" ");
    const span = make("span", flags(word) & LINE_END ? "end" : text(word) === "<unk>" ? "unk" : "", text(word));
    span.dataset.i = i;
    spans.push(span);
    line.append(span);
    if (flags(word) & LINE_END) line = null;
  });
  element("text").replaceChildren(page);
}

function bin(value) {
  if (mode.id !== "gain") return CHANCE_STEPS.filter((step) => value >= step).length;
  const size = GAIN_STEPS.filter((step) => Math.abs(value) >= step).length;
  return GAIN_STEPS.length + (value < 0 ? -size : size);
}

/* A token's shade is a number; the style sheet has the colors of each, for light and dark. */
function paint() {
  for (let i = 0; i < spans.length; i++) {
    const shown = bin(mode.of(i));
    if (shade[i] !== shown) spans[i].dataset.s = shade[i] = shown;
  }
  element("text").dataset.mode = mode.id === "gain" ? "gain" : "chance";
  element("lambda-value").textContent = lambda.toFixed(lambda === row.lmbda ? 3 : 2);
  measure();
}

function perplexity(logprob) {
  let sum = 0, missing = 0;
  for (let i = 0; i < spans.length; i++) logprob(i) === -Infinity ? missing++ : (sum += logprob(i));
  if (missing) return `infinite (no neighbor has ${missing.toLocaleString("en")} of the words)`;
  return Math.exp(-sum / spans.length).toFixed(2);
}

function measure() {
  const value = (id, logprob) => Object.assign(make("b", "", perplexity(logprob)), { id });
  const parts = ["perplexity ", value("ppl-lm", (i) => shared.lm[i]), " LM → ", value("ppl-mix", mixed), against ? ` ${row.label}` : " mixture"];
  if (against) parts.push(" against ", value("ppl-against", rival), ` ${against.label}`);
  element("perplexity").replaceChildren(...parts);
}

function legend() {
  const isGain = mode.id === "gain", steps = isGain ? GAIN_STEPS : CHANCE_STEPS;
  const swatches = Array.from({ length: isGain ? 2 * steps.length + 1 : steps.length + 1 }, (_, s) => {
    const made = make("i");
    made.dataset.s = s;
    return made;
  });
  const [low, high] = isGain ? [`${against ? against.label : "LM"} better`, `${against ? row.label : "kNN-LM"} better`] : ["0", "1"];
  const told = isGain
    ? `log p ${against ? row.label : "kNN-LM"} − log p ${against ? against.label : "LM"}; steps at ±${steps.join(", ")} nats`
    : `${mode.label} of each token; steps at ${steps.join(", ")}`;
  element("legend").dataset.mode = isGain ? "gain" : "chance";
  element("legend").replaceChildren(make("span", "", low), ...swatches, make("span", "", high), make("span", "", told));
}

function switchTo(next) {
  mode = next;
  for (const button of element("modes").children) button.setAttribute("aria-checked", button.dataset.mode === mode.id);
  legend();
  paint();
}

let waiting = false;
function setLambda(value) {
  lambda = Math.min(1, Math.max(0, value));
  element("lambda").value = lambda;
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    paint();
    refresh();
    writeAddress();
  });
}

/* Compare two rows, or one with the LM where `second` is null; λ stays at the tuned one if it was there. */
function compare(first, second) {
  const tuned = lambda === row.lmbda;
  row = first;
  against = second === first ? null : second;
  element("row").value = row.name;
  element("against").value = against ? against.name : "";
  element("modes").firstChild.textContent = MODES[0].label = against ? "difference" : "gain of kNN-LM";
  legend();
  setLambda(tuned ? row.lmbda : lambda);
  if (chosen >= 0) requestAnimationFrame(() => reveal(spans[chosen])); // the panel may have another width
}

function dim() {
  const dimmed = element("text").classList.toggle("dim");
  element("dim").setAttribute("aria-pressed", dimmed);
}

function choose(i, scroll = "nearest") {
  if (i < 0 || i >= spans.length) return;
  if (chosen >= 0) spans[chosen].classList.remove("chosen");
  chosen = i;
  goal = null;
  spans[i].classList.add("chosen");
  element("notice").hidden = true;
  show("token");
  reveal(spans[i], scroll);
  writeAddress();
}

/* Scroll so that the token is neither below the header nor, on a phone, below the panel. */
function reveal(span, where) {
  const { top, bottom } = span.getBoundingClientRect(), head = document.querySelector("header").offsetHeight;
  const panel = element("panel"), style = getComputedStyle(panel);
  const floor = style.position === "fixed" && style.display !== "none" ? panel.getBoundingClientRect().top : innerHeight;
  if (where === "center" || top < head + 24 || bottom > floor - 24) scrollBy(0, top - (head + (floor - head) / 3));
}

function search(query) {
  for (const i of matches) spans[i].classList.remove("match");
  matches = [];
  const wanted = query.trim().toLowerCase().split(/\s+/).filter(Boolean);
  if (wanted.length) {
    const lower = spans.map((span) => span.textContent.toLowerCase());
    for (let i = 0; i <= lower.length - wanted.length; i++) {
      if (wanted.every((part, k) => (wanted.length > 1 && k < wanted.length - 1 ? lower[i + k] === part : lower[i + k].startsWith(part)))) matches.push(i);
    }
  }
  for (const i of matches) spans[i].classList.add("match");
  element("matches").textContent = wanted.length ? `${matches.length.toLocaleString("en")} found` : "";
}

function match(direction) {
  if (!matches.length) return;
  const ahead = direction > 0 ? matches.find((i) => i > chosen) : matches.findLast((i) => i < chosen);
  const next = ahead ?? (direction > 0 ? matches[0] : matches[matches.length - 1]);
  choose(next, "center");
  element("matches").textContent = `${matches.indexOf(next) + 1} / ${matches.length}`;
}

/* The horizontal middle of a token. */
function middle(span) {
  const { left, right } = span.getBoundingClientRect();
  return (left + right) / 2;
}

/*
 * Move to the line above or below, to the token nearest to the goal: the place where the first of several such steps
 * began. As in an editor, going down and up again leads back to the same token, however wide the tokens between are.
 */
function vertical(direction) {
  const here = spans[chosen].getBoundingClientRect(), aim = goal ?? middle(spans[chosen]);
  let line = null, nearest = -1, distance = Infinity;
  for (let i = chosen + direction; i >= 0 && i < spans.length; i += direction) {
    const { top } = spans[i].getBoundingClientRect();
    if (direction * (top - here.top) < 5) continue;
    if (line === null) line = top;
    if (Math.abs(top - line) > 5) break;
    const away = Math.abs(middle(spans[i]) - aim);
    if (away < distance) (distance = away), (nearest = i);
  }
  choose(nearest);
  goal = aim;
}

function largest(direction) {
  const best = extremes(1, 200), place = best.indexOf(chosen);
  if (best.length) choose(best[place < 0 ? 0 : Math.min(best.length - 1, Math.max(0, place + direction))], "center");
}

function showList(which) {
  show(which);
  element("details").querySelector("button")?.focus();
}

function clearSearch() {
  element("query").value = "";
  search("");
  element("query").blur();
}

const held = (name) => data.rows.find((other) => other.name === name);
const names = data.rows.map((other) => other.name).join(", ");

/* What the address may name: functions that take a value over, or return what was expected in its place. */
const ADDRESS = {
  row(name) {
    if (!held(name)) return `no such row, expected one of ${names}`;
    compare(held(name), against);
  },
  against(name) {
    if (name !== "lm" && !held(name)) return `no such row, expected lm or one of ${names}`;
    compare(row, held(name) ?? null);
  },
  lambda(value) {
    if (!value.trim() || !(Number(value) >= 0 && Number(value) <= 1)) return "expected a number from 0 to 1";
    setLambda(Number(value));
  },
  t(value) {
    if (!/^\d+$/.test(value) || value < 1 || value > spans.length) return `expected a token from 1 to ${spans.length}`;
    paint(); // so that the header has its height
    choose(value - 1, "center");
  },
};

function readAddress() {
  const asked = new URLSearchParams(location.hash.slice(1)), wrong = [];
  if (location.hash.length > 1) compare(row, null), setLambda(row.lmbda); // what a link leaves out is as tuned
  for (const key of Object.keys(ADDRESS).filter((key) => asked.has(key))) {
    const fault = ADDRESS[key](asked.get(key));
    if (fault) wrong.push(`${key}=${asked.get(key)}: ${fault}`);
  }
  for (const key of asked.keys()) if (!ADDRESS[key]) wrong.push(`${key}: expected ${Object.keys(ADDRESS).join(", ")}`);
  element("notice").textContent = `Ignored in the address: ${wrong.join("; ")}.`;
  element("notice").hidden = !wrong.length;
}

let writing = 0;
function writeAddress() {
  clearTimeout(writing); // browsers allow few changes a second, and a slider makes many
  writing = setTimeout(() => {
    const parts = [`t=${chosen + 1}`];
    if (lambda !== row.lmbda) parts.push(`lambda=${Number(lambda.toFixed(3))}`);
    parts.push(`row=${encodeURIComponent(row.name)}`);
    if (against) parts.push(`against=${encodeURIComponent(against.name)}`);
    history.replaceState(null, "", `#${parts.join("&")}`);
  }, 150);
}

const KEYS = {
  ArrowRight: () => choose(chosen + 1),
  ArrowLeft: () => choose(chosen - 1),
  ArrowDown: () => vertical(1),
  ArrowUp: () => vertical(-1),
  b: () => largest(1),
  B: () => largest(-1),
  h: () => showList("helps"),
  H: () => showList("hurts"),
  u: () => element("dim").click(),
  n: () => match(1),
  N: () => match(-1),
  "[": () => setLambda(Math.round(100 * lambda - 1) / 100),
  "]": () => setLambda(Math.round(100 * lambda + 1) / 100),
  "0": () => setLambda(row.lmbda),
  "/": () => element("query").focus(),
  "?": () => element("help-button").click(),
};
MODES.forEach((entry, i) => (KEYS[i + 1] = () => switchTo(entry)));

function listen() {
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") clearSearch();
    if (event.target.matches("select, #query") || event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
    if (document.activeElement === element("lambda") && event.key.startsWith("Arrow")) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  element("text").addEventListener("click", (event) => event.target.dataset.i && choose(Number(event.target.dataset.i)));
  element("lambda").addEventListener("input", (event) => setLambda(Number(event.target.value)));
  element("tuned").addEventListener("click", () => setLambda(row.lmbda));
  element("query").addEventListener("input", (event) => search(event.target.value));
  element("search").addEventListener("submit", (event) => (event.preventDefault(), match(1)));
  element("help-button").addEventListener("click", ({ currentTarget }) => {
    element("help").hidden = !element("help").hidden;
    currentTarget.setAttribute("aria-expanded", !element("help").hidden);
  });
  element("row").addEventListener("change", (event) => compare(held(event.target.value), against));
  element("against").addEventListener("change", (event) => compare(row, held(event.target.value) ?? null));
  element("dim").addEventListener("click", dim);
  element("panel").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.dataset.view) show(button.dataset.view);
    if (button?.dataset.i) choose(Number(button.dataset.i), "center");
  });
  element("close").addEventListener("click", () => document.body.classList.add("closed"));
  addEventListener("hashchange", readAddress);
  addEventListener("resize", () => (goal = null));
  new ResizeObserver(([{ target }]) => {
    document.documentElement.style.setProperty("--header", `${target.offsetHeight}px`);
  }).observe(document.querySelector("header"));
}

function controls() {
  for (const entry of MODES) {
    const button = make("button", "", entry.label);
    button.type = "button";
    button.dataset.mode = entry.id;
    button.setAttribute("role", "radio");
    button.addEventListener("click", () => switchTo(entry));
    element("modes").append(button);
  }
  element("against").append(new Option("the LM", ""));
  for (const { name, label } of data.rows) {
    element("row").append(new Option(label, name));
    element("against").append(new Option(label, name));
  }
  element("pair").hidden = data.rows.length < 2;
  element("dim").hidden = !element("text").querySelector(".unk");
}

async function start() {
  const arrays = await Promise.all(data.arrays.map(unpack));
  for (const [name, place] of Object.entries(data.shared)) shared[name] = arrays[place];
  for (const held of data.rows) for (const [name, place] of Object.entries(held.arrays)) held[name] = arrays[place];
  write();
  controls();
  listen();
  words = spans.map((_, i) => i).filter((i) => /\p{L}/u.test(spans[i].textContent) && !spans[i].textContent.startsWith("<"));
  switchTo(MODES[0]);
  compare(row, null);
  readAddress();
  paint(); // so that the header has its height
  if (chosen < 0) {
    const { hidden } = element("notice");
    choose(extremes(1, 1)[0] ?? 0, "center");
    element("notice").hidden = hidden;
  }
  document.body.dataset.ready = "true";
}
