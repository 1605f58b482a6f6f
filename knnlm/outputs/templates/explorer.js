"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const { steps, zero, neighbors, before, after } = data.shown, width = 2 * data.shown.words, TOP = 8;
const NO_SPACE_BEFORE = 1, NO_SPACE_AFTER = 2, QUOTE = 4, LINE_END = 8;
const COLORS = { knn: "#0072b2", lm: "#767676", mixture: "#222222", cache: "#009e73" };
const GAIN_STEPS = [0.02, 0.1, 0.3, 1, 3];
const GAIN = ["#c25100", "#dd7a36", "#eda574", "#f6c9aa", "#fce6d8", "transparent", "#dfeef7", "#b5d7ec", "#7fb9dd", "#3e94c7", "#00619a"];
const CHANCE_STEPS = [0.001, 0.01, 0.05, 0.2, 0.5, 0.8];
const CHANCE = ["transparent", "#e4eef5", "#c3dbea", "#93c0dd", "#569fca", "#1f7ab2", "#00507f"];
const MODES = [
  { id: "gain", label: "gain of kNN-LM", of: (i) => mixed(i) - array.lm[i] },
  { id: "knn", label: "p kNN", of: (i) => Math.exp(array.knn[i]) },
  { id: "lm", label: "p LM", of: (i) => Math.exp(array.lm[i]) },
  ...(data.arrays.cache ? [{ id: "cache", label: "p cache", of: (i) => Math.exp(array.cache[i]) }] : []),
];
const array = {}, spans = [], shade = [], element = (id) => document.getElementById(id);
let lambda = data.lmbda, mode = MODES[0], chosen = -1, matches = [], best = [], goal = null;

const nats = (step) => (step === zero ? -Infinity : -step / steps);
const chance = (step) => Math.exp(nats(step));
const mix = (lm, knn) => (1 - lambda) * chance(lm) + lambda * chance(knn);
const mixed = (i) => Math.log((1 - lambda) * Math.exp(array.lm[i]) + lambda * Math.exp(array.knn[i]));
const text = (word) => data.words[2 * word], flags = (word) => data.words[2 * word + 1];
const percent = (p) => (p >= 0.0995 ? p.toFixed(2) : p >= 0.00095 ? p.toFixed(3) : p > 0 ? p.toExponential(0) : "0");
const signed = (x) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(2);

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
  array.token.forEach((word, i) => {
    if (starts.has(i)) page.append(make("h2", "", starts.get(i))), (line = null);
    if (!line) page.append((line = make("p"))), (space = spacing());
    if (space(word)) line.append(" ");
    const span = make("span", flags(word) & LINE_END ? "end" : "", text(word));
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

function paint() {
  const palette = mode.id === "gain" ? GAIN : CHANCE;
  const dark = mode.id === "gain" ? [0, 9, 10] : [5, 6];
  let lm = 0, both = 0;
  for (let i = 0; i < spans.length; i++) {
    lm += array.lm[i], (both += mixed(i));
    const shown = bin(mode.of(i)), key = palette[shown];
    if (shade[i] !== key) {
      shade[i] = key;
      spans[i].style.backgroundColor = key;
      spans[i].style.color = dark.includes(shown) ? "#fff" : "";
    }
  }
  element("ppl-lm").textContent = Math.exp(-lm / spans.length).toFixed(2);
  element("ppl-mix").textContent = Math.exp(-both / spans.length).toFixed(2);
  element("lambda-value").textContent = lambda.toFixed(lambda === data.lmbda ? 3 : 2);
}

function legend() {
  const parts = [], swatch = (color) => {
    const made = make("i");
    made.style.backgroundColor = color;
    if (color === "transparent") made.style.boxShadow = "inset 0 0 0 1px #ccc";
    return made;
  };
  if (mode.id === "gain") {
    parts.push(make("span", "", "LM better"), ...GAIN.map(swatch), make("span", "", "kNN-LM better"));
    parts.push(make("span", "", `log p kNN-LM − log p LM; steps at ±${GAIN_STEPS.join(", ")} nats`));
  } else {
    parts.push(make("span", "", "0"), ...CHANCE.map(swatch), make("span", "", "1"));
    parts.push(make("span", "", `${mode.label} of each token; steps at ${CHANCE_STEPS.join(", ")}`));
  }
  element("legend").replaceChildren(...parts);
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
    if (chosen >= 0) describe(chosen);
  });
}

function choose(i, scroll = "nearest") {
  if (i < 0 || i >= spans.length) return;
  if (chosen >= 0) spans[chosen].classList.remove("chosen");
  chosen = i;
  goal = null;
  spans[i].classList.add("chosen");
  reveal(spans[i], scroll);
  describe(i);
  element("panel").scrollTop = 0;
}

/* Scroll so that the token is neither below the header nor, on a phone, below the panel. */
function reveal(span, where) {
  const { top, bottom } = span.getBoundingClientRect(), head = element("text").previousHeader;
  const panel = element("panel"), floor = getComputedStyle(panel).position === "fixed" ? panel.getBoundingClientRect().top : innerHeight;
  if (where === "center" || top < head + 24 || bottom > floor - 24) scrollBy(0, top - (head + (floor - head) / 3));
}

function bar(name, p, color) {
  const made = make("i");
  made.style.cssText = `background:${color};width:${100 * Math.min(1, p)}%`;
  return [make("span", "", name), made, make("span", "", percent(p))];
}

/* Words whose place in the order is certain: any word outside both lists has at most `bound`. */
function ranked(i, probability, bound) {
  const words = [];
  for (let j = width * i; j < width * (i + 1); j++) {
    if (array.wordLm[j] === zero && array.wordKnn[j] === zero) continue;
    const p = probability(j);
    if (p > 0 && p >= bound) words.push([array.word[j], p]);
  }
  return words.sort((a, b) => b[1] - a[1]).slice(0, TOP);
}

function least(steps, i) {
  const all = Array.from(steps.subarray(width * i, width * (i + 1))).map(chance).sort((a, b) => b - a);
  return all[data.shown.words - 1];
}

function column(name, color, words, target) {
  const made = make("div"), head = make("h4", "", name), list = make("ol");
  head.style.borderColor = color;
  for (const [word, p] of words) {
    const item = make("li", word === target ? "target" : ""), fill = make("i");
    fill.style.cssText = `background:${color};width:${100 * p}%`;
    item.append(fill, make("span", "", text(word)), make("span", "", percent(p)));
    list.append(item);
  }
  if (!words.length) list.append(make("li", "", "–"));
  made.append(head, list);
  return made;
}

function tops(i) {
  const made = make("div", "tops"), target = array.token[i];
  const lowLm = least(array.wordLm, i), lowKnn = least(array.wordKnn, i);
  const bound = (1 - lambda) * lowLm + lambda * lowKnn;
  made.append(
    column("LM", COLORS.lm, ranked(i, (j) => chance(array.wordLm[j]), lowLm), target),
    column("kNN", COLORS.knn, ranked(i, (j) => chance(array.wordKnn[j]), lowKnn), target),
    column("mixture", COLORS.mixture, ranked(i, (j) => mix(array.wordLm[j], array.wordKnn[j]), bound), target),
  );
  return made;
}

/* The last document of the packed training text that starts at or before `place`. */
function documentAt(place) {
  let low = 0, high = array.trainDocument.length;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (array.trainDocument[middle] <= place) low = middle;
    else high = middle;
  }
  return low;
}

function neighbor(j, target) {
  const place = array.neighbor[j] - 1, document_ = documentAt(place), word = array.train[place];
  const first = Math.max(place - before, array.trainDocument[document_]);
  const end = document_ + 1 < array.trainDocument.length ? array.trainDocument[document_ + 1] : array.train.length;
  const item = make("li", word === target ? "hit" : ""), line = make("p"), space = spacing();
  const pieces = { left: "", target: "", right: "" };
  for (let k = first; k < Math.min(place + after + 1, end); k++) {
    const part = k < place ? "left" : k === place ? "target" : "right";
    const gap = space(array.train[k]);
    if (gap) pieces[part === "target" ? "left" : part] += " ";
    pieces[part] += text(array.train[k]);
  }
  line.append(first > array.trainDocument[document_] ? "… " : "", pieces.left, make("mark", "", pieces.target), make("span", "after", pieces.right));
  const facts = `weight ${percent(chance(array.weight[j]))} · distance ${array.distance[j].toPrecision(3)} · ${data.titles[document_]}`;
  item.append(line, make("small", "", facts));
  return item;
}

function describe(i) {
  const target = array.token[i], gain = mixed(i) - array.lm[i], panel = document.createDocumentFragment();
  panel.append(make("h2", "", text(target)));
  const verdict = make("p", "verdict"), said = gain > 0 ? "kNN makes it more likely" : gain < 0 ? "kNN makes it less likely" : "kNN changes nothing";
  verdict.append(make("b", "", `${signed(gain)} nats`), ` ${said} · token ${(i + 1).toLocaleString("en")} of ${spans.length.toLocaleString("en")}`);
  const bars = make("div", "bars");
  bars.append(...bar("LM", Math.exp(array.lm[i]), COLORS.lm), ...bar("kNN", Math.exp(array.knn[i]), COLORS.knn));
  bars.append(...bar("mixture", Math.exp(mixed(i)), COLORS.mixture));
  if (array.cache) bars.append(...bar("cache", Math.exp(array.cache[i]), COLORS.cache));
  const list = make("ol", "neighbors");
  let found = 0;
  for (let j = neighbors * i; j < neighbors * (i + 1); j++) {
    if (array.neighbor[j]) list.append(neighbor(j, target)), found++;
  }
  if (!found) list.append(make("li", "", "No neighbor was found."));
  panel.append(verdict, bars, make("h3", "", "Most probable next words"), tops(i));
  panel.append(make("h3", "", `Nearest training contexts (${found} of k = ${data.store.k})`), list);
  element("panel").replaceChildren(panel);
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
  const place = best.indexOf(chosen);
  choose(best[place < 0 ? 0 : Math.min(best.length - 1, Math.max(0, place + direction))], "center");
}

const KEYS = {
  ArrowRight: () => choose(chosen + 1),
  ArrowLeft: () => choose(chosen - 1),
  ArrowDown: () => vertical(1),
  ArrowUp: () => vertical(-1),
  b: () => largest(1),
  B: () => largest(-1),
  n: () => match(1),
  N: () => match(-1),
  "[": () => setLambda(Math.round(100 * lambda - 1) / 100),
  "]": () => setLambda(Math.round(100 * lambda + 1) / 100),
  "0": () => setLambda(data.lmbda),
  "/": () => element("query").focus(),
  "?": () => element("help-button").click(),
};
MODES.forEach((entry, i) => (KEYS[i + 1] = () => switchTo(entry)));

function listen() {
  addEventListener("keydown", (event) => {
    const typing = document.activeElement === element("query");
    if (event.key === "Escape") element("query").blur();
    if (typing || event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
    if (document.activeElement === element("lambda") && event.key.startsWith("Arrow")) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  element("text").addEventListener("click", (event) => event.target.dataset.i && choose(Number(event.target.dataset.i)));
  element("lambda").addEventListener("input", (event) => setLambda(Number(event.target.value)));
  element("tuned").addEventListener("click", () => setLambda(data.lmbda));
  element("query").addEventListener("input", (event) => search(event.target.value));
  element("search").addEventListener("submit", (event) => (event.preventDefault(), match(1)));
  element("help-button").addEventListener("click", ({ currentTarget }) => {
    element("help").hidden = !element("help").hidden;
    currentTarget.setAttribute("aria-expanded", !element("help").hidden);
  });
  addEventListener("resize", () => (goal = null));
  new ResizeObserver(([{ target }]) => {
    element("text").previousHeader = target.offsetHeight;
    document.documentElement.style.setProperty("--header", `${target.offsetHeight}px`);
  }).observe(document.querySelector("header"));
}

async function start() {
  await Promise.all(Object.entries(data.arrays).map(async ([name, packed]) => (array[name] = await unpack(packed))));
  for (const entry of MODES) {
    const button = make("button", "", entry.label);
    button.type = "button";
    button.dataset.mode = entry.id;
    button.setAttribute("role", "radio");
    button.addEventListener("click", () => switchTo(entry));
    element("modes").append(button);
  }
  element("text").previousHeader = document.querySelector("header").offsetHeight;
  write();
  listen();
  setLambda(data.lmbda);
  switchTo(MODES[0]);
  best = spans.map((_, i) => i).filter((i) => /\p{L}/u.test(spans[i].textContent) && !spans[i].textContent.startsWith("<"));
  const gain = spans.map((_, i) => mixed(i) - array.lm[i]);
  best.sort((a, b) => gain[b] - gain[a]).splice(200);
  choose(best[0], "center");
  document.body.dataset.ready = "true";
}

start();
