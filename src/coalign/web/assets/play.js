"use strict";
// Two answers at once, streamed as one JSON object a line. What models wrote reaches the page through textContent.

const form = document.getElementById("play");
const stop = document.getElementById("stop");
let running = null;

async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    rest += value;
    const parts = rest.split("\n");
    rest = parts.pop();
    for (const part of parts) if (part) yield JSON.parse(part);
  }
  if (rest) yield JSON.parse(rest);
}

async function answer(side, request, signal) {
  const box = side.querySelector(".answer");
  const speed = side.querySelector(".speed");
  box.textContent = "";
  box.classList.remove("error");
  speed.textContent = "Waiting …";
  const body = JSON.stringify({ ...request, model: side.querySelector("select").value });
  try {
    const response = await fetch("/api/generate", { method: "POST", headers: { "content-type": "application/json" }, body, signal });
    for await (const part of lines(response)) {
      if (part.error !== undefined) throw new Error(part.error);
      if (part.state !== undefined) speed.textContent = part.state;
      if (part.text !== undefined) box.textContent += part.text;
      if (part.done) speed.textContent = `${part.tokens} tokens in ${part.seconds.toFixed(1)} s, ended by ${part.finish_reason}`;
    }
  } catch (error) {
    if (error.name === "AbortError") { speed.textContent = "Stopped"; return; }
    box.classList.add("error");
    box.textContent = error.message;
    speed.textContent = "";
  }
}

async function start() {
  if (running || !form.reportValidity()) return;
  running = new AbortController();
  stop.disabled = false;
  const number = (name) => Number(form.elements[name].value);
  const request = {
    prompt: form.elements.prompt.value,
    max_new_tokens: number("max_new_tokens"),
    temperature: number("temperature"),
    top_p: number("top_p"),
    seed: number("seed"),
  };
  await Promise.all([...form.querySelectorAll(".side")].map((side) => answer(side, request, running.signal)));
  running = null;
  stop.disabled = true;
}

form.addEventListener("submit", (event) => { event.preventDefault(); start(); });
stop.addEventListener("click", () => running?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); start(); }
  if (event.key === "Escape") running?.abort();
});
