"use strict";
// What models wrote reaches the page through textContent alone.

const $ = (id) => document.getElementById(id);
const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie", "1": "left", "2": "right", "0": "tie", t: "tie", s: "skip" };
let pair = null;
let busy = false;
let invisible = /(?!)/u;

function show(element, text) {
  element.replaceChildren();
  for (const part of text.replaceAll("\r\n", "\n").split(invisible)) {
    if (!part) continue;
    if (invisible.test(part)) {
      const chip = document.createElement("span");
      chip.className = "ctl";
      chip.textContent = "U+" + part.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
      element.append(chip);
    } else element.append(part);
  }
  if (!text) element.append("(empty)");
  element.scrollTop = 0;
}

function update(state) {
  pair = state.pair;
  const { preferences, ties, skipped } = state.counts;
  $("progress").textContent = `${state.done} of ${state.total} · ${preferences} preferences, ${ties} ties, ${skipped} skipped`;
  $("bar").max = state.total;
  $("bar").value = state.done;
  $("main").hidden = pair === null;
  $("end").hidden = pair !== null;
  for (const button of document.querySelectorAll("[data-said]")) button.disabled = pair === null;
  $("undo").disabled = state.done === 0;
  if (pair === null) return;
  show($("prompt"), pair.prompt);
  show($("left"), pair.left);
  show($("right"), pair.right);
}

async function ask(path, body) {
  if (busy) return;
  busy = true;
  try {
    const answer = await fetch(path, body === undefined ? {} : {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
    });
    const state = await answer.json();
    if (!answer.ok) throw new Error(state.error ?? answer.statusText);
    $("problem").hidden = true;
    return state;
  } catch (error) {
    $("problem").textContent = `Nothing was kept: ${error.message}`;
    $("problem").hidden = false;
  } finally {
    busy = false;
  }
}

async function say(said) {
  if (pair === null) return;
  const state = await ask("api/verdict", { index: pair.index, said });
  if (state) update(state);
}

async function undo() {
  const state = await ask("api/undo", {});
  if (state) update(state);
}

for (const button of document.querySelectorAll("[data-said]")) {
  button.addEventListener("click", () => say(button.dataset.said));
}
$("undo").addEventListener("click", undo);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key in KEYS) { event.preventDefault(); say(KEYS[key]); }
  else if (key === "u") undo();
});

ask("api/state").then((state) => {
  if (!state) return;
  const ranges = state.invisible.map(([low, high]) => `\\u{${low.toString(16)}}-\\u{${high.toString(16)}}`);
  invisible = new RegExp(`([${ranges.join("")}])`, "u");
  $("out").textContent = state.out;
  update(state);
});
