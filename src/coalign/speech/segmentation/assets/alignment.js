(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const audio = document.getElementById("audio");
  const wave = document.getElementById("wave");
  const overview = document.getElementById("overview");
  const zoom = document.getElementById("zoom");
  const least = document.getElementById("least");
  const follow = document.getElementById("follow");
  const rows = [...document.querySelectorAll("#utterances > li")];
  const words = [...document.querySelectorAll(".word")];
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  let centre = 0, stopAt = Infinity, lastRow = null, lastWord = null;

  // Green at 0, yellow at -1, red from -3 on.
  const hue = (score) => Math.max(0, Math.min(1, 1 + score / 3)) * 120;
  const colour = (score, alpha) => `hsl(${hue(score)} 65% 62% / ${alpha})`;
  const probability = (p) => hue(Math.log(Math.max(p, 1e-3)));

  rows.forEach((row, index) => {
    row.querySelector(".score").style.background = colour(data.utterances[index][2], 1);
    row.querySelector(".time").addEventListener("click", () => play(data.utterances[index][0], data.utterances[index][1]));
  });
  words.forEach((word) => {
    word.style.borderBottomColor = `hsl(${probability(+word.title.split(" ").pop())} 65% 55%)`;
    const start = () => play(+word.dataset.start, Infinity);
    word.addEventListener("click", start);
    word.addEventListener("keydown", (event) => { if (event.key === "Enter") start(); });
  });

  function play(from, to) {
    stopAt = to;
    audio.currentTime = from;
    audio.play().catch(() => {});
    centre = from;
    draw();
  }

  // Seconds in view: from 5 s to the whole recording, on a logarithmic scale.
  const span = () => Math.min(data.seconds, 5 * Math.pow(Math.max(data.seconds / 5, 1), 1 - zoom.value / 100));
  const left = () => Math.max(0, Math.min(centre - span() / 2, data.seconds - span()));

  function size(canvas) {
    const scale = window.devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * scale), height = Math.round(+canvas.getAttribute("height") * scale);
    if (!canvas.dataset.height) { canvas.dataset.height = canvas.getAttribute("height"); }
    const tall = Math.round(+canvas.dataset.height * scale);
    if (canvas.width !== width || canvas.height !== tall) { canvas.width = width; canvas.height = tall; }
    canvas.style.height = `${canvas.dataset.height}px`;
    return [canvas.getContext("2d"), width, tall];
  }

  function paint(canvas, from, seconds, labels) {
    const [context, width, height] = size(canvas);
    const at = (time) => (time - from) / seconds * width;
    context.clearRect(0, 0, width, height);
    data.utterances.forEach(([start, end, score]) => {
      if (end < from || start > from + seconds || score < +least.value) { return; }
      context.fillStyle = colour(score, 0.45);
      context.fillRect(at(start), 0, Math.max(at(end) - at(start), 1), height);
    });
    const count = data.peaks.length / 2;
    context.fillStyle = css("--wave");
    for (let x = 0; x < width; x += 1) {
      const first = Math.floor((from + x / width * seconds) / data.seconds * count);
      const last = Math.max(first + 1, Math.floor((from + (x + 1) / width * seconds) / data.seconds * count));
      let low = 0, high = 0;
      for (let i = first; i < last && i < count; i += 1) {
        low = Math.min(low, data.peaks[2 * i]); high = Math.max(high, data.peaks[2 * i + 1]);
      }
      const y = height / 2 - high / 127 * height * 0.47;
      context.fillRect(x, y, 1, Math.max(height / 2 - low / 127 * height * 0.47 - y, 1));
    }
    if (labels) { writeWords(context, at, width, height, from, seconds); }
    context.fillStyle = css("--accent");
    context.fillRect(at(audio.currentTime) - 1, 0, 2, height);
    return at;
  }

  function writeWords(context, at, width, height, from, seconds) {
    const scale = window.devicePixelRatio || 1;
    context.font = `${11 * scale}px system-ui, sans-serif`;
    context.fillStyle = css("--fg");
    let free = 0;
    words.forEach((word) => {
      const start = +word.dataset.start;
      const x = at(start);
      if (start < from || start > from + seconds || x < free || word.closest("li").hidden) { return; }
      context.fillText(word.textContent, x, 12 * scale);
      context.fillRect(x, 14 * scale, scale, height - 14 * scale);
      free = x + context.measureText(word.textContent).width + 6 * scale;
    });
  }

  function draw() {
    paint(wave, left(), span(), span() < 90);
    const at = paint(overview, 0, data.seconds, false);
    const context = overview.getContext("2d");
    context.strokeStyle = css("--accent");
    context.lineWidth = 2;
    context.strokeRect(at(left()), 1, Math.max(at(left() + span()) - at(left()), 3), overview.height - 2);
  }

  function mark(element, last) {
    if (last && last !== element) { last.classList.remove("now"); }
    if (element) { element.classList.add("now"); }
    return element;
  }

  function tick() {
    const now = audio.currentTime;
    if (now >= stopAt) { audio.pause(); stopAt = Infinity; }
    const index = data.utterances.findIndex(([start, end]) => start <= now && now < end);
    const row = index < 0 ? null : rows[index];
    if (row && row !== lastRow && follow.checked && !audio.paused) { row.scrollIntoView({ block: "nearest", behavior: "smooth" }); }
    lastRow = mark(row, lastRow);
    lastWord = mark(row ? [...row.querySelectorAll(".word")].reverse().find((word) => +word.dataset.start <= now) : null, lastWord);
    if (follow.checked || now < left() || now > left() + span()) { centre = now; }
    draw();
    if (!audio.paused) { requestAnimationFrame(tick); }
  }

  function filter() {
    let shown = 0;
    rows.forEach((row, index) => {
      row.hidden = data.utterances[index][2] < +least.value;
      shown += row.hidden ? 0 : 1;
    });
    document.getElementById("least-text").textContent = (+least.value).toFixed(2);
    document.getElementById("shown").textContent = `${shown} of ${rows.length} utterances`;
    draw();
  }

  wave.addEventListener("click", (event) => {
    const box = wave.getBoundingClientRect();
    play(left() + (event.clientX - box.left) / box.width * span(), Infinity);
  });
  overview.addEventListener("click", (event) => {
    const box = overview.getBoundingClientRect();
    centre = (event.clientX - box.left) / box.width * data.seconds;
    audio.currentTime = centre;
    draw();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== " " || ["INPUT", "BUTTON", "AUDIO"].includes(event.target.tagName)) { return; }
    event.preventDefault();
    if (audio.paused) { stopAt = Infinity; audio.play().catch(() => {}); } else { audio.pause(); }
  });
  audio.addEventListener("play", tick);
  audio.addEventListener("seeked", tick);
  zoom.addEventListener("input", draw);
  least.addEventListener("input", filter);
  window.addEventListener("resize", draw);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  filter();
})();
