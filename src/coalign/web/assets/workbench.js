"use strict";
// Lists: search and state hide rows; ticked runs are compared or deleted; states are kept current. The page of a run is
// kept current while it works; what changes something is asked for as JSON.

const ask = async (path, body = {}) => {
  const said = document.getElementById("said");
  said.textContent = "Working …";
  let answer, value;
  try {
    answer = await fetch(path, {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
    });
    value = await answer.json();
  } catch {
    said.textContent = answer ? `The workbench failed (${answer.status}).` : "The workbench does not answer.";
    return null;
  }
  said.textContent = answer.ok ? "" : value.error;
  return answer.ok ? value : null;
};
const place = (name) => `/runs/${encodeURIComponent(name)}`;

{
  const input = document.getElementById("filter");
  const only = document.getElementById("only");
  const shown = document.getElementById("shown");
  const rows = input ? [...document.querySelectorAll(input.dataset.rows)] : [];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const filter = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    rows.forEach((row, index) => {
      row.hidden = !words.every((word) => texts[index].includes(word)) || Boolean(only?.value && row.dataset.state !== only.value);
      if (!row.hidden) count += 1;
    });
    for (const room of document.querySelectorAll(".room")) {
      room.hidden = !room.querySelector(".method:not([hidden])");
    }
    shown.textContent = words.length || only?.value ? `${count} of ${rows.length}` : "";
  };
  input?.addEventListener("input", filter);
  only?.addEventListener("change", filter);
  if (input?.value || only?.value) filter();
}

{
  const form = document.getElementById("runs");
  const button = document.getElementById("compare");
  const remove = document.getElementById("delete");
  const ticked = () => [...form.querySelectorAll("[name=run]:checked")].map((one) => one.value);
  const update = () => {
    const count = ticked().length;
    if (remove) {
      remove.disabled = !count;
      remove.textContent = count ? `Delete ${count}` : "Delete";
    }
    button.disabled = count < 2;
    button.textContent = count < 2 ? "Compare" : `Compare ${count}`;
  };
  form?.addEventListener("change", update);
  if (form) update();
  remove?.addEventListener("click", async () => {
    const names = ticked();
    if (!confirm(`Delete ${names.length === 1 ? names[0] : `${names.length} runs`} for good?`)) return;
    for (const name of names) {
      if (!await ask(`/api/runs/${encodeURIComponent(name)}/delete`)) return;
    }
    location.reload();
  });

  const refresh = async () => {
    if (document.hidden) return;
    let states;
    try { states = await (await fetch("/api/runs")).json(); } catch { return; }
    for (const run of states) {
      const row = form.querySelector(`tr[data-run="${CSS.escape(run.name)}"]`);
      const badge = row?.querySelector(".badge");
      if (!badge || badge.textContent === run.state) continue;
      row.dataset.state = run.state;
      badge.textContent = run.state;
      badge.className = `badge state ${run.state}`;
      row.querySelector(".headline > div").textContent = run.headline;
    }
  };
  if (form) setInterval(refresh, 4000);
}

{
  const run = document.getElementById("run");
  const live = document.getElementById("live");
  const state = document.getElementById("state");
  run?.addEventListener("click", async (event) => {
    const { do: what, ask: question } = event.target.dataset;
    if (!what || (question && !confirm(question))) return;
    event.target.disabled = true;
    if (await ask(`/api/runs/${encodeURIComponent(run.dataset.run)}/${what}`)) location.assign(what === "delete" ? "/" : place(run.dataset.run));
    event.target.disabled = false;
  });

  const refresh = async () => {
    if (document.hidden || state.textContent !== "running") return;
    let answer;
    try { answer = await fetch(`${place(run.dataset.run)}/live`); } catch { return; }
    if (!answer.ok) return;
    const text = await answer.text();
    const open = new Set([...live.querySelectorAll("details[open]")].map((one) => one.dataset.group));
    live.innerHTML = text;
    for (const one of live.querySelectorAll("details")) one.open = open.has(one.dataset.group);
    if (answer.headers.get("x-state") !== "running") location.reload();
  };
  if (run) setInterval(refresh, 3000);
}

{
  const choose = document.getElementById("choose");
  choose?.addEventListener("change", () => choose.requestSubmit());
  const form = document.getElementById("start");
  form?.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("[type=submit]");
    button.disabled = true;
    const asked = { method: form.dataset.method, options: form.elements.options.value, name: form.elements.name.value };
    const started = await ask("/api/runs", asked);
    if (started) location.assign(place(started.name));
    button.disabled = false;
  });
}
