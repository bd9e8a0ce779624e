(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const video = document.getElementById("video");
  const curve = document.getElementById("curve");
  const map = document.getElementById("map");
  const rows = [...document.querySelectorAll("#sentences > li")];
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  let chosen = 0, now = 0;

  const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

  function size(canvas) {
    const scale = window.devicePixelRatio || 1;
    if (!canvas.dataset.height) { canvas.dataset.height = canvas.getAttribute("height"); }
    const width = Math.round(canvas.clientWidth * scale), height = Math.round(+canvas.dataset.height * scale);
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    canvas.style.height = `${canvas.dataset.height}px`;
    return [canvas.getContext("2d"), width, height];
  }

  const at = (time, width) => time / data.seconds * width;

  function drawCurve() {
    const [context, width, height] = size(curve);
    const one = data.sentences[chosen];
    context.clearRect(0, 0, width, height);
    if (one.start !== null && one.end !== null) {
      context.fillStyle = css("--truth");
      context.fillRect(at(one.start, width), 0, Math.max(at(one.end - one.start, width), 2), height);
    }
    const top = Math.max(...one.curve, 1);
    context.beginPath();
    one.curve.forEach((value, place) => {
      const x = at(place / data.fps, width), y = height - 4 - value / top * (height - 12);
      if (place) { context.lineTo(x, y); } else { context.moveTo(x, y); }
    });
    context.strokeStyle = css("--curve");
    context.lineWidth = 2 * (window.devicePixelRatio || 1);
    context.stroke();
    mark(context, width, height);
  }

  function drawMap() {
    const [context, width, height] = size(map);
    const tall = height / data.sentences.length;
    context.clearRect(0, 0, width, height);
    data.sentences.forEach((one, row) => {
      const top = Math.max(...one.curve, 1);
      one.curve.forEach((value, place) => {
        if (!value) { return; }
        context.fillStyle = css("--curve");
        context.globalAlpha = value / top;
        context.fillRect(at(place / data.fps, width), row * tall, Math.max(at(1 / data.fps, width), 1), Math.max(tall - 1, 1));
      });
      context.globalAlpha = 1;
    });
    context.strokeStyle = css("--accent");
    context.strokeRect(0.5, chosen * tall + 0.5, width - 1, Math.max(tall - 1, 1));
    mark(context, width, height);
  }

  function mark(context, width, height) {
    context.fillStyle = css("--accent");
    context.fillRect(at(now, width) - 1, 0, 2, height);
  }

  function draw() {
    drawCurve();
    drawMap();
    document.getElementById("said").textContent = `${clock(now)} of ${clock(data.seconds)}: ${rows[chosen].querySelector(".text").textContent}`;
    rows.forEach((row, place) => {
      const one = data.sentences[place];
      row.classList.toggle("chosen", place === chosen);
      row.classList.toggle("now", Math.abs(one.time - now) <= 0.75 / data.fps);
    });
  }

  function go(time, play) {
    now = Math.max(0, Math.min(time, data.seconds));
    if (video) {
      video.currentTime = now;
      if (play) { video.play().catch(() => {}); }
    }
    draw();
  }

  rows.forEach((row, place) => row.querySelector("button").addEventListener("click", () => {
    chosen = place;
    go(data.sentences[place].time, true);
  }));
  curve.addEventListener("click", (event) => {
    const box = curve.getBoundingClientRect();
    go((event.clientX - box.left) / box.width * data.seconds, false);
  });
  curve.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) { event.preventDefault(); go(now + step / data.fps, false); }
  });
  map.addEventListener("click", (event) => {
    const box = map.getBoundingClientRect();
    chosen = Math.min(Math.floor((event.clientY - box.top) / box.height * data.sentences.length), data.sentences.length - 1);
    go((event.clientX - box.left) / box.width * data.seconds, false);
  });
  if (video) {
    video.addEventListener("timeupdate", () => { now = video.currentTime; draw(); });
    video.addEventListener("error", () => { video.hidden = true; document.getElementById("unplayable").hidden = false; });
  }
  window.addEventListener("resize", draw);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
})();
