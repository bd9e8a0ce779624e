"use strict";
// Everything a model wrote reaches the page through textContent alone.

const read = (id) => JSON.parse(document.getElementById(id).textContent);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// -- theme: auto, light, dark
{
  const button = document.getElementById("theme");
  const order = ["auto", "light", "dark"];
  const stored = () => { try { return localStorage.getItem("coalign-theme"); } catch { return null; } };
  let theme = order.includes(stored()) ? stored() : "auto";
  const apply = () => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = "Theme: " + theme;
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    theme = order[(order.indexOf(theme) + 1) % order.length];
    try { localStorage.setItem("coalign-theme", theme); } catch { /* storage is off: the choice lasts for this page */ }
    apply();
  });
  apply();
}

// -- navigation: mark the section in view
{
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const sections = [...document.querySelectorAll("main > section")];
  const bar = document.querySelector("nav");
  let current = null;
  const update = () => {
    const atEnd = window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 4;
    const above = sections.filter((section) => section.getBoundingClientRect().top < 140);
    const next = links.get((atEnd ? sections.at(-1) : above.at(-1) ?? sections[0]).id);
    if (next === current) return;
    current?.removeAttribute("aria-current");
    next.setAttribute("aria-current", "true");
    bar.scrollTo({ left: next.offsetLeft - bar.clientWidth / 2 + next.clientWidth / 2 });
    current = next;
  };
  let waiting = false;
  addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; update(); });
  }, { passive: true });
  update();
}

// -- text with invisible characters shown and matches marked
const ranges = read("invisible").map(([low, high]) => `\\u{${low.toString(16)}}-\\u{${high.toString(16)}}`);
const invisible = new RegExp(`([${ranges.join("")}])`, "u");

function showText(element, text, pattern) {
  for (const part of text.replaceAll("\r\n", "\n").split(invisible)) {
    if (!part) continue;
    if (invisible.test(part)) {
      const code = "U+" + part.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
      element.append(make("span", { class: "ctl", title: "invisible or direction-changing character" }, code));
    } else if (pattern) {
      part.split(pattern).forEach((piece, index) => {
        if (piece) element.append(index % 2 ? make("mark", {}, piece) : piece);
      });
    } else element.append(part);
  }
  return element;
}

// -- samples: filter, sort, page
const PAGE = 20;
const CHANGES = { better: "▲", worse: "▼", same: "" };

const KINDS = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array };

function unpack([kind, text]) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new KINDS[kind](bytes.buffer);
}

// Rows of which the page has the scores alone: an array-like of rows, those with texts among them.
function packedRows(data) {
  const { packed } = data;
  const states = ["unknown", "same", "better", "worse"];
  const words = (one) => { const rows = unpack(one.rows); return (at) => rows[at] ? one.words[rows[at] - 1] : null; };
  const change = unpack(packed.change), gain = unpack(packed.gain), long = unpack(packed.long);
  const delta = words(packed.delta), scores = packed.scores.map(words);
  const counts = unpack(packed.tagCounts), tags = unpack(packed.tagPlaces);
  const rows = new Array(packed.total);
  let start = 0;
  for (let at = 0; at < packed.total; at++) {
    const own = [];
    for (const end = start + counts[at]; start < end; start++) own.push(data.tags[tags[start]]);
    rows[at] = {
      change: states[change[at]], gain: Number.isNaN(gain[at]) ? null : gain[at], long: long[at], tags: own, at,
      get delta() { return delta(this.at); },
      get outputs() { return scores.map((score) => ({ score: score(this.at), checks: [] })); },
    };
  }
  unpack(packed.places).forEach((at, index) => { rows[at] = { ...data.rows[index], long: long[at], at }; });
  return rows;
}

function startSamples(root) {
  const data = read(root.dataset.source);
  const known = data.rows;
  for (const one of data.rows.flatMap((row) => row.outputs)) {
    one.text ??= one.pieces.map(([text]) => text).join("");
  }
  if (data.packed) data.rows = packedRows(data);
  const form = root.querySelector(".tools");
  const list = root.querySelector(".rows");
  const status = root.querySelector(".status");
  const pager = root.querySelector(".pager");
  const [previous, place, next] = pager.children;
  let shown = data.rows.map((_, index) => index);
  let page = 0;
  let pattern = null;

  const matches = (row) => {
    const tag = form.elements.tag?.value ?? "";
    const change = form.elements.change?.value ?? "";
    if (tag && !row.tags.includes(data.tags[Number(tag)])) return false;
    if (change && row.change !== change) return false;
    if (!pattern) return true;
    const found = (text) => { pattern.lastIndex = 0; return pattern.test(text); };
    if (row.prompt === undefined) return false;
    return found(row.prompt) || row.outputs.some((output) => found(output.text));
  };
  const keys = {
    gain: (row) => -(row.gain ?? -Infinity),
    loss: (row) => row.gain ?? Infinity,
    long: (row) => -(row.long ?? Math.max(...row.outputs.map((output) => output.text.length))),
  };

  function filter() {
    const query = form.elements.text.value.trim();
    pattern = query ? new RegExp(`(${query.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&")})`, "giu") : null;
    shown = [];
    data.rows.forEach((row, index) => { if (matches(row)) shown.push(index); });
    const key = keys[form.elements.sort.value];
    if (key) {
      const values = data.rows.map(key);
      shown.sort((a, b) => values[a] - values[b] || a - b);
    }
    page = 0;
    render();
  }

  // Marked text: pointing at a mark shows what it is, a click keeps its note below the text.
  function showMarked(words, pieces) {
    const note = make("p", { class: "mark-note", role: "status", hidden: "" });
    for (const [text, mark, more] of pieces) {
      if (mark === undefined) { showText(words, text, pattern); continue; }
      const [name, tone] = data.marks[mark];
      const title = more ? `${name}: ${more}` : name;
      const span = showText(make("span", { class: `m ${tone}`, title }), text, pattern);
      span.addEventListener("click", () => {
        const again = note.current === span;
        note.replaceChildren();
        note.hidden = again;
        note.current = again ? null : span;
        if (!again) showText(note, title);
      });
      words.append(span);
    }
    return note;
  }

  function output(one, index) {
    const title = make("h3", {}, showText(make("bdi"), data.columns[index]));
    if (one.score !== null) {
      title.append(make("span", {}, showText(make("bdi"), data.scoreName), " ", make("b", {}, one.score)));
    }
    const words = make("div", { class: "words", dir: "auto" });
    const box = make("div", { class: "output" }, title);
    if (one.text === undefined) return box;
    box.append(words);
    if (one.pieces) box.append(showMarked(words, one.pieces));
    else showText(words, one.text, pattern);
    if (one.checks.length) {
      box.append(make("ul", { class: "checks" }, ...one.checks.map(([name, value]) => {
        const label = showText(make("bdi"), name);
        if (typeof value !== "boolean") return make("li", {}, label, " " + (value ?? "–"));
        const sign = make("i", { role: "img", "aria-label": value ? "passed:" : "failed:" }, value ? "✓" : "✗");
        return make("li", { class: value ? "passed" : "failed" }, sign, label);
      })));
    }
    return box;
  }

  function card(index) {
    const row = data.rows[index];
    const head = make("header", {}, make("span", {}, `#${index + 1}`));
    for (const tag of row.tags) head.append(showText(make("bdi", { class: "tag" }), tag));
    if (row.change in CHANGES) {
      const words = row.change === "same" ? "same score" : `${CHANGES[row.change]} ${row.delta}`;
      head.append(make("span", { class: `delta ${row.change}` }, words, make("span", { class: "hidden" }, ` ${row.change}`)));
    }
    const prompt = row.prompt === undefined
      ? make("p", { class: "prompt note" }, data.packed.file ? `Texts: line ${index + 1} of ${data.packed.file}, beside this page.` : "Only the scores are in this page.")
      : showText(make("div", { class: "prompt words", dir: "auto" }), row.prompt, pattern);
    return make("li", { class: "row" }, head, prompt,
      make("div", { class: "outputs" }, ...row.outputs.map(output)));
  }

  function clip() {
    const tall = [...list.querySelectorAll(".words")].filter((words) => words.scrollHeight > 320);
    for (const words of tall) {
      words.classList.add("clipped");
      const button = make("button", { type: "button", class: "more", "aria-expanded": "false" }, "Show all");
      button.addEventListener("click", () => {
        const open = words.classList.toggle("clipped") === false;
        button.textContent = open ? "Show less" : "Show all";
        button.setAttribute("aria-expanded", String(open));
      });
      words.after(button);
    }
  }

  function render() {
    const pages = Math.max(1, Math.ceil(shown.length / PAGE));
    const first = page * PAGE;
    list.replaceChildren(...shown.slice(first, first + PAGE).map(card));
    list.start = first + 1;
    clip();
    const count = (value) => value.toLocaleString("en");
    const last = Math.min(first + PAGE, shown.length);
    const total = shown.length === data.rows.length ? "" : ` (${count(data.rows.length)} in all)`;
    status.textContent = shown.length
      ? `${count(first + 1)} to ${count(last)} of ${count(shown.length)} samples${total}`
      : `No sample matches${total}`;
    pager.hidden = pages === 1;
    place.textContent = `Page ${count(page + 1)} of ${count(pages)}`;
    previous.disabled = page === 0;
    next.disabled = page === pages - 1;
  }

  const turn = (by) => {
    page += by;
    render();
    root.closest("section").scrollIntoView();
  };
  previous.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));
  let timer;
  form.addEventListener("input", (event) => {
    clearTimeout(timer);
    timer = setTimeout(filter, event.target.name === "text" ? 120 : 0);
  });
  if (data.packed) {
    const some = known.length.toLocaleString("en");
    status.before(make("p", { class: "note" },
      `The texts of ${some} samples are here (largest gains, largest losses, and some of all), which the search looks through; ` +
      "the scores of all are." + (data.packed.file ? ` Every text is in ${data.packed.file}, which coalign ui shows.` : "")));
  }
  form.addEventListener("submit", (event) => { event.preventDefault(); filter(); });
  render();
}

document.querySelectorAll(".samples[data-source]").forEach(startSamples);
