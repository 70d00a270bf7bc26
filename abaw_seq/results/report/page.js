// The controls: which run, video and frame are shown, and how to move between them.

const PLAY_MILLISECONDS = 80;
const byId = (id) => document.getElementById(id);
const control = Object.fromEntries(
  ["run", "video", "order", "kind", "slider", "status", "zoom", "play", "worst"].map((id) => [id, byId(id)]),
);
const state = { run: 0, index: 0, i: 0, zoom: 1, playing: null };

function current() {
  return openVideo(state.run, state.index);
}

function option(select, value, text) {
  make("option", "", text, select).value = value;
}

function percent(rate, words) {
  return Number.isNaN(rate) ? null : `${words} ${Math.round(rate * 100)} %`;
}

function fillVideos() {
  const entries = DATA.runs[state.run].videos.map((_, index) => ({ index, video: openVideo(state.run, index) }));
  const key = control.order.value;
  const rate = (entry) => (Number.isNaN(entry.video.wrong.rates[key]) ? -1 : entry.video.wrong.rates[key]);
  if (key !== "name") entries.sort((a, b) => rate(b) - rate(a));
  control.video.replaceChildren();
  for (const { index, video } of entries) {
    const { expression, va, au } = video.wrong.rates;
    const parts = [
      `${video.count} frame${video.count === 1 ? "" : "s"}`,
      percent(expression, "expression wrong"),
      Number.isNaN(va) ? null : `V/A off by ${va.toFixed(2)}`,
      percent(au, "AU wrong"),
    ];
    option(control.video, index, `${video.name}  (${parts.filter(Boolean).join(", ")})`);
  }
}

function selectRun(run) {
  const kept = DATA.runs[state.run].videos[state.index];
  const frame = kept ? current().frames[state.i] : null;
  state.run = run;
  fillVideos();
  const same = DATA.runs[run].videos.findIndex((video) => kept && video.name === kept.name);
  const index = same >= 0 ? same : Number(control.video.value);
  const at = same >= 0 ? openVideo(run, index).frames.indexOf(frame) : 0;
  selectVideo(index, Math.max(at, 0));
}

function selectVideo(index, i = 0) {
  state.index = index;
  control.video.value = String(index);
  control.slider.max = String(current().count - 1);
  state.zoom = 1;
  showVideo(current());
  control.worst.disabled = worstFrame(current()) < 0;
  select(i, true);
}

function select(i, redraw = false) {
  const video = current();
  control.status.textContent = "";
  state.i = Math.min(Math.max(i, 0), video.count - 1);
  const moved = setView(Math.ceil(video.count / state.zoom), state.i);
  if (moved || redraw) drawTimeline();
  drawCursor(state.i);
  showFrame(video, state.i);
  control.slider.value = String(state.i);
  control.slider.setAttribute("aria-valuetext", describeFrame(video, state.i));
  control.zoom.textContent = `${state.zoom}×`;
}

// Go to the next (step 1) or previous (-1) error in this video, or else in the videos after or before it in the list.
function jump(step) {
  const kind = control.kind.value;
  const order = Array.from(control.video.options, (entry) => Number(entry.value));
  const start = order.indexOf(state.index);
  for (let k = 0; k <= order.length; k++) {
    const index = order[(start + step * k + order.length * (k + 1)) % order.length];
    let frames = errorFrames(openVideo(state.run, index), kind);
    if (step < 0) frames.reverse();
    if (k === 0) frames = frames.filter((i) => (i - state.i) * step > 0);
    if (!frames.length) continue;
    if (index !== state.index) selectVideo(index);
    select(frames[0]);
    say(k === 0 ? "" : `${current().name}: `);
    return;
  }
  control.status.textContent = `No error in ${ERROR_KINDS[kind]} in any video of this run.`;
}

function say(before) {
  control.status.textContent = before + describeFrame(current(), state.i);
}

function jumpToWorst() {
  const worst = worstFrame(current());
  if (worst < 0) return;
  select(worst);
  say("largest valence/arousal error of this video: ");
}

function zoom(factor) {
  const most = Math.max(2 ** Math.floor(Math.log2(current().count / 10)), 1);
  state.zoom = Math.min(Math.max(state.zoom * factor, 1), most);
  select(state.i);
}

function play(on) {
  clearInterval(state.playing);
  state.playing = on ? setInterval(() => {
    if (state.i >= current().count - 1) play(false);
    else select(state.i + 1);
  }, PLAY_MILLISECONDS) : null;
  control.play.textContent = on ? "pause" : "play";
  control.play.setAttribute("aria-pressed", String(on));
}

const KEYS = {
  ArrowLeft: (event) => select(state.i - (event.shiftKey ? 10 : 1)),
  ArrowRight: (event) => select(state.i + (event.shiftKey ? 10 : 1)),
  PageUp: () => select(state.i - 50),
  PageDown: () => select(state.i + 50),
  Home: () => select(0),
  End: () => select(current().count - 1),
  n: () => DATA.labelled && jump(1),
  p: () => DATA.labelled && jump(-1),
  w: jumpToWorst,
  " ": () => play(state.playing === null),
  "+": () => zoom(2),
  "=": () => zoom(2),
  "-": () => zoom(0.5),
};
const SCROLLING = ["PageUp", "PageDown", "Home", "End", " "];

// Keys work while the focus is in the scrubber, and those that do not scroll also when nothing has the focus; in a list
// they keep their usual meaning.
function onKey(event) {
  const target = event.target;
  if (event.ctrlKey || event.altKey || event.metaKey || target.tagName === "SELECT") return;
  const inside = byId("scrubber").contains(target);
  if (!inside && !(target === document.body && !SCROLLING.includes(event.key))) return;
  if (target.tagName === "BUTTON" && event.key === " ") return;
  const act = KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act(event);
}

function drag(stage) {
  const go = (event) => select(frameAt(event.clientX - stage.getBoundingClientRect().left));
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    play(false);
    stage.setPointerCapture(event.pointerId);
    control.slider.focus({ preventScroll: true });
    event.preventDefault();
    go(event);
  });
  stage.addEventListener("pointermove", (event) => {
    if (stage.hasPointerCapture(event.pointerId)) go(event);
  });
}

function redrawAll() {
  showLegend(byId("legend"));
  drawTimeline();
  drawCursor(state.i);
}

function start() {
  const first = DATA.runs.findIndex((run) => run.videos.length);
  if (first < 0) return;
  byId("scrubber").hidden = false;
  DATA.runs.forEach((run, k) => run.videos.length && option(control.run, k, run.name));
  byId("run-label").hidden = control.run.options.length < 2;
  for (const id of ["order-label", "errors"]) byId(id).hidden = !DATA.labelled;
  for (const [kind, words] of Object.entries(ERROR_KINDS)) option(control.kind, kind, words);
  control.run.value = String(first);
  control.run.addEventListener("change", () => selectRun(Number(control.run.value)));
  control.video.addEventListener("change", () => selectVideo(Number(control.video.value)));
  control.order.addEventListener("change", () => {
    fillVideos();
    selectVideo(Number(control.video.value));
  });
  control.slider.addEventListener("input", () => select(Number(control.slider.value)));
  byId("next-error").addEventListener("click", () => jump(1));
  byId("previous-error").addEventListener("click", () => jump(-1));
  byId("worst").addEventListener("click", jumpToWorst);
  byId("zoom-in").addEventListener("click", () => zoom(2));
  byId("zoom-out").addEventListener("click", () => zoom(0.5));
  control.play.addEventListener("click", () => play(state.playing === null));
  document.addEventListener("keydown", onKey);
  drag(byId("stage"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);
  new ResizeObserver(redrawAll).observe(byId("stage"));
  state.run = first;
  showLegend(byId("legend"));
  selectRun(first);
}

start();
