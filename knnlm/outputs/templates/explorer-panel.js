/* The panel: what one token looks like to the rows compared, and where the one helps or hurts most. */
const LISTED = 50, NOBODY = "no neighbor has this word";

function bar(name, p, color, note) {
  const made = make("i");
  made.style.cssText = `background:var(--${color});width:${100 * Math.min(1, p)}%`;
  return [make("span", "", name), made, make("span", "", note ?? percent(p))];
}

function bars(row, weight, i, withCache) {
  const made = make("div", "bars"), near = row.knn[i];
  made.append(...bar("LM", Math.exp(shared.lm[i]), "lm"), ...bar("kNN", Math.exp(near), "knn"));
  made.append(...bar("mixture", Math.exp(mixture(row, weight, i)), "mixture"));
  if (withCache && shared.cache) made.append(...bar("cache", Math.exp(shared.cache[i]), "cache"));
  return made;
}

/* Words whose place in the order is certain: any word outside both lists has at most `bound`. */
function ranked(row, i, probability, bound) {
  const words = [];
  for (let j = width * i; j < width * (i + 1); j++) {
    if (row.wordLm[j] === zero && row.wordKnn[j] === zero) continue;
    const p = probability(j);
    if (p > 0 && p >= bound) words.push([row.word[j], p]);
  }
  return words.sort((a, b) => b[1] - a[1]).slice(0, data.shown.words);
}

function least(steps, i) {
  const all = Array.from(steps.subarray(width * i, width * (i + 1))).map(chance).sort((a, b) => b - a);
  return all[data.shown.words - 1];
}

function column(name, color, words, target) {
  const made = make("div"), head = make("h4", "", name), list = make("ol");
  head.style.borderColor = `var(--${color})`;
  for (const [word, p] of words) {
    const item = make("li", word === target ? "target" : ""), fill = make("i");
    fill.style.cssText = `background:var(--${color});width:${100 * p}%`;
    item.append(fill, make("span", "", text(word)), make("span", "", percent(p)));
    list.append(item);
  }
  if (!words.length) list.append(make("li", "", "–"));
  made.append(head, list);
  return made;
}

function tops(row, weight, i, withLm) {
  const made = make("div", "tops"), target = shared.token[i];
  const lowLm = least(row.wordLm, i), lowKnn = least(row.wordKnn, i);
  const mix = (lm, knn) => (1 - weight) * lm + weight * knn;
  if (withLm) made.append(column("LM", "lm", ranked(row, i, (j) => chance(row.wordLm[j]), lowLm), target));
  made.append(
    column("kNN", "knn", ranked(row, i, (j) => chance(row.wordKnn[j]), lowKnn), target),
    column("mixture", "mixture", ranked(row, i, (j) => mix(chance(row.wordLm[j]), chance(row.wordKnn[j])), mix(lowLm, lowKnn)), target),
  );
  return made;
}

/* The last document of the packed training text that starts at or before `place`. */
function documentAt(place) {
  let low = 0, high = shared.trainDocument.length;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (shared.trainDocument[middle] <= place) low = middle;
    else high = middle;
  }
  return low;
}

function neighbor(row, j, target) {
  const place = row.neighbor[j] - 1, document_ = documentAt(place), word = shared.train[place], starts = shared.trainDocument;
  const first = Math.max(place - before, starts[document_]);
  const end = document_ + 1 < starts.length ? starts[document_ + 1] : shared.train.length;
  const item = make("li", word === target ? "hit" : ""), line = make("p"), space = spacing();
  const pieces = { left: "", target: "", right: "" };
  for (let k = first; k < Math.min(place + after + 1, end); k++) {
    const part = k < place ? "left" : k === place ? "target" : "right";
    const gap = space(shared.train[k]);
    if (gap) pieces[part === "target" ? "left" : part] += " ";
    pieces[part] += text(shared.train[k]);
  }
  line.append(first > starts[document_] ? "… " : "", pieces.left, make("mark", "", pieces.target), make("span", "after", pieces.right));
  const facts = `weight ${percent(chance(row.weight[j]))} · distance ${row.distance[j].toPrecision(3)} · ${data.titles[document_]}`;
  item.append(line, make("small", "", facts));
  return item;
}

function nearest(row, i) {
  const list = make("ol", "neighbors"), target = shared.token[i];
  for (let j = neighbors * i; j < neighbors * (i + 1); j++) if (row.neighbor[j]) list.append(neighbor(row, j, target));
  const found = list.childElementCount;
  if (!found) list.append(make("li", "", "No neighbor was found."));
  return [make("h3", "", `Nearest training contexts (${found} of k = ${row.store.k})`), list];
}

/* One row's view of a token; beside another row's it leaves out what both share. */
function side(row, weight, i, paired) {
  const made = make("section", "side"), { store } = row, head = make("div");
  head.append(make("h3", "row", row.label));
  head.append(make("p", "facts", `λ ${weight.toFixed(2)} · T ${store.temperature} · ${store.distance.replace("_", " ")} distances · index ${store.index} · ${store.keytype}`));
  if (paired || data.rows.length > 1) made.append(head);
  made.append(bars(row, weight, i, !paired));
  if (!row.neighbor) {
    made.append(make("p", "facts", "The study kept no neighbors of this row, only its probabilities."));
    return made;
  }
  made.append(make("h3", "", "Most probable next words"), tops(row, weight, i, !paired), ...nearest(row, i));
  return made;
}

function verdict(i) {
  const made = make("p", "verdict"), place = ` · token ${(i + 1).toLocaleString("en")} of ${spans.length.toLocaleString("en")}`;
  if (mixed(i) === -Infinity) {
    made.append(make("b", "", NOBODY), ` and λ is 1: ${against ? row.label : "the mixture"} gives it no probability${place}`);
    return made;
  }
  const better = gain(i);
  const told = against
    ? better ? `in favor of ${(better > 0 ? row : against).label}` : "both are alike"
    : better > 0 ? "kNN makes it more likely" : better < 0 ? "kNN makes it less likely" : "kNN changes nothing";
  made.append(make("b", "", `${signed(better)} nats`), ` ${told}${place}`);
  if (row.knn[i] === -Infinity) made.append(` · ${NOBODY}`);
  return made;
}

function describe(i) {
  const pair = make("div", "sides");
  pair.append(side(row, lambda, i, Boolean(against)));
  if (against) pair.append(side(against, against.lmbda, i, true));
  pair.classList.toggle("paired", Boolean(against));
  element("details").replaceChildren(make("h2", "", text(shared.token[i])), verdict(i), pair);
}

/* The tokens that are words, in the order of the gain at this λ: the largest first, or the smallest. Equal ones, as
 * all that no neighbor has at λ = 1, are in the order of p LM. */
function extremes(direction, count) {
  const known = spans.map((_, i) => direction * gain(i));
  return words.filter((i) => known[i] > 0).sort((a, b) => (known[a] === known[b] ? shared.lm[b] - shared.lm[a] : known[b] - known[a])).slice(0, count);
}

/* The text from up to six tokens before a token to the token, within its line. */
function context(i) {
  let first = i;
  while (first > 0 && i - first < 6 && spans[first - 1].parentNode === spans[i].parentNode) first--;
  const range = document.createRange();
  range.setStartBefore(spans[first]);
  range.setEndBefore(spans[i]);
  return range.toString();
}

function list(direction) {
  const made = make("ol", "extremes"), found = extremes(direction, LISTED);
  for (const i of found) {
    const item = make("li"), button = make("button"), line = make("span", "line"), value = gain(i);
    line.append(context(i), make("b", "", spans[i].textContent));
    button.append(line, make("span", "value", Number.isFinite(value) ? signed(value) : NOBODY));
    button.type = "button";
    button.dataset.i = i;
    if (i === chosen) button.setAttribute("aria-current", "true");
    item.append(button);
    made.append(item);
  }
  const [better, worse] = against ? [row.label, against.label] : ["kNN", "the LM alone"];
  const title = against ? `Where ${direction > 0 ? better : worse} beats ${direction > 0 ? worse : better} most` : `Where kNN ${direction > 0 ? "helps" : "hurts"} most`;
  const told = `Nats that ${against ? `${better} gives a token more than ${worse}` : "the mixture gives a token more than the LM alone"}, at λ = ${lambda.toFixed(2)}.`;
  element("details").replaceChildren(make("h2", "list-title", title), make("p", "verdict", found.length ? told : "Nowhere in this text."), made);
  made.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
}

function refresh() {
  element("panel").classList.toggle("wide", Boolean(against));
  for (const button of element("panel").querySelectorAll("[data-view]")) button.setAttribute("aria-pressed", button.dataset.view === view);
  if (view !== "token") list(view === "helps" ? 1 : -1);
  else if (chosen >= 0) describe(chosen);
}

function show(next) {
  view = next;
  document.body.classList.remove("closed");
  element("panel").scrollTop = 0;
  refresh();
}
