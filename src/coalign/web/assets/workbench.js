"use strict";
// Lists: search hides rows; ticking two or more runs allows to compare them; states are kept current.

{
  const input = document.getElementById("filter");
  const shown = document.getElementById("shown");
  const rows = input ? [...document.querySelectorAll(input.dataset.rows)] : [];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const filter = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    rows.forEach((row, index) => {
      row.hidden = !words.every((word) => texts[index].includes(word));
      if (!row.hidden) count += 1;
    });
    for (const room of document.querySelectorAll(".room")) {
      room.hidden = !room.querySelector(".method:not([hidden])");
    }
    shown.textContent = words.length ? `${count} of ${rows.length}` : "";
  };
  input?.addEventListener("input", filter);
  if (input?.value) filter();
}

{
  const form = document.getElementById("runs");
  const button = document.getElementById("compare");
  const update = () => {
    const count = form.querySelectorAll("[name=run]:checked").length;
    button.disabled = count < 2;
    button.textContent = count < 2 ? "Compare" : `Compare ${count}`;
  };
  form?.addEventListener("change", update);
  if (form) update();

  const refresh = async () => {
    if (document.hidden) return;
    let states;
    try { states = await (await fetch("/api/runs")).json(); } catch { return; }
    for (const run of states) {
      const row = form.querySelector(`tr[data-run="${CSS.escape(run.name)}"]`);
      const badge = row?.querySelector(".badge");
      if (!badge || badge.textContent === run.state) continue;
      badge.textContent = run.state;
      badge.className = `badge state ${run.state}`;
      row.querySelector(".headline > div").textContent = run.headline;
    }
  };
  if (form) setInterval(refresh, 4000);
}
