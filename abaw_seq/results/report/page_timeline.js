// The timeline: one canvas for the values, one above it for the cursor, so that scrubbing draws the second alone.
// Frames stand side by side in stored order; a dotted line marks where many frame numbers are missing.

const GUTTER = 80, RIGHT = 8, AXIS = 24;
const VA_HEIGHT = 88, VA_GAP = 16, STRIP = 17, WRONG = 12, UNIT_ROW = 20;
// Within an action unit's row: annotated, wrong, predicted.
const UNIT_TRUE = 5, UNIT_WRONG = 3, UNIT_PREDICTED = 8;
const MOST_JUMPS = 40; // more dotted lines than this would hide the rows behind them
const FONT = '12px system-ui, "Liberation Sans", sans-serif';

const timeline = {
  base: document.getElementById("timeline"),
  overlay: document.getElementById("cursor"),
  video: null,
  rows: [],
  from: 0, // the frames in view, [from, to)
  to: 1,
};

function inks() {
  const style = getComputedStyle(document.documentElement);
  const ink = (name) => style.getPropertyValue(`--${name}`).trim();
  return { paper: ink("paper"), ink: ink("ink"), muted: ink("muted"), line: ink("line"), accent: ink("accent"), error: ink("error") };
}

function showVideo(video) {
  timeline.video = video;
  timeline.from = 0;
  timeline.to = video.count;
  timeline.rows = [];
  let top = 8;
  const add = (kind, key, height, gap) => {
    timeline.rows.push({ kind, key, top, height });
    top += height + gap;
  };
  for (const task of ["valence", "arousal"]) if (video.predicted[task] || video.true[task]) add("va", task, VA_HEIGHT, VA_GAP);
  if (video.true.expression) add("classes", "true", STRIP, 1);
  if (video.true.expression && video.predicted.expression) add("wrong", "expression", WRONG, 1);
  if (video.predicted.expression) add("classes", "predicted", STRIP, 0);
  if (video.true.expression || video.predicted.expression) top += 14;
  if (video.true.au || video.predicted.au) for (let k = 0; k < UNITS; k++) add("unit", k, UNIT_ROW, 0);
  timeline.height = top + AXIS;
}

function plotWidth() {
  return Math.max(timeline.base.clientWidth - GUTTER - RIGHT, 10);
}

function left(i) {
  return GUTTER + ((i - timeline.from) / (timeline.to - timeline.from)) * plotWidth();
}

function centre(i) {
  return left(i + 0.5);
}

function frameAt(x) {
  const share = (x - GUTTER) / plotWidth();
  const i = Math.floor(timeline.from + share * (timeline.to - timeline.from));
  return Math.min(Math.max(i, timeline.from), timeline.to - 1);
}

// Show `size` frames with frame i among them, near the middle if the view has to move.
function setView(size, i) {
  const count = timeline.video.count;
  size = Math.min(Math.max(size, 1), count);
  const inside = size === timeline.to - timeline.from && i >= timeline.from && i < timeline.to;
  if (inside) return false;
  timeline.from = Math.min(Math.max(Math.round(i - size / 2), 0), count - size);
  timeline.to = timeline.from + size;
  return true;
}

function context(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = timeline.base.clientWidth;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(timeline.height * ratio);
  canvas.style.height = `${timeline.height}px`;
  const draw = canvas.getContext("2d");
  draw.scale(ratio, ratio);
  draw.font = FONT;
  draw.textBaseline = "middle";
  return draw;
}

function drawTimeline() {
  if (!timeline.video) return;
  const draw = context(timeline.base);
  const colours = inks();
  for (const row of timeline.rows) {
    if (row.kind === "va") drawCourse(draw, row, colours);
    if (row.kind === "classes") drawClasses(draw, row, colours);
    if (row.kind === "wrong") drawWrong(draw, row, colours);
    if (row.kind === "unit") drawUnit(draw, row, colours);
  }
  drawAxis(draw, colours);
}

function label(draw, text, y, colour) {
  draw.fillStyle = colour;
  draw.textAlign = "right";
  draw.fillText(text, GUTTER - 8, y);
}

function courseY(row, value) {
  return row.top + row.height / 2 - (Math.min(Math.max(value, -1), 1) * row.height) / 2;
}

// Annotated and predicted values, the difference shaded; an unknown value interrupts its line.
function drawCourse(draw, row, colours) {
  const { video, from, to } = timeline;
  const truth = video.true[row.key], predicted = video.predicted[row.key];
  const right = GUTTER + plotWidth();
  draw.lineWidth = 1;
  for (const value of [-1, 0, 1]) {
    const y = Math.round(courseY(row, value)) + 0.5;
    draw.strokeStyle = value === 0 ? colours.muted : colours.line;
    line(draw, GUTTER, y, right, y);
  }
  draw.fillStyle = colours.muted;
  draw.textAlign = "left";
  draw.fillText("1", 4, row.top + 5);
  draw.fillText("−1", 4, row.top + row.height - 5);
  label(draw, row.key, courseY(row, 0), colours.ink);
  const first = Math.max(from - 1, 0), last = Math.min(to + 1, video.count);
  draw.save();
  draw.beginPath();
  draw.rect(GUTTER, row.top - 4, plotWidth(), row.height + 8);
  draw.clip();
  if (truth && predicted) {
    draw.fillStyle = colours.accent;
    draw.globalAlpha = 0.2;
    for (const [a, b] of stretches(first, last, (i) => known(truth[i], predicted[i]))) {
      draw.beginPath();
      for (let i = a; i < b; i++) draw.lineTo(centre(i), courseY(row, truth[i]));
      for (let i = b - 1; i >= a; i--) draw.lineTo(centre(i), courseY(row, predicted[i]));
      draw.fill();
    }
    draw.globalAlpha = 1;
  }
  for (const [list, colour, width] of [[truth, colours.ink, 1.8], [predicted, colours.accent, 1.5]]) {
    if (list) drawLine(draw, row, list, colour, width, first, last);
  }
  draw.restore();
}

function drawLine(draw, row, list, colour, width, first, last) {
  draw.strokeStyle = draw.fillStyle = colour;
  draw.lineWidth = width;
  draw.lineJoin = "round";
  for (const [a, b] of stretches(first, last, (i) => known(list[i]))) {
    if (b - a === 1) {
      dot(draw, centre(a), courseY(row, list[a]), 1.6);
      continue;
    }
    draw.beginPath();
    for (let i = a; i < b; i++) draw.lineTo(centre(i), courseY(row, list[i]));
    draw.stroke();
  }
}

function drawClasses(draw, row, colours) {
  const list = timeline.video[row.key].expression;
  for (const [x, width, value] of cells((i) => list[i], middle)) {
    if (!Number.isNaN(value)) box(draw, x, width, row.top, row.height, DATA.colours[value]);
  }
  const both = timeline.video.true.expression && timeline.video.predicted.expression;
  label(draw, row.key === "true" && both ? "expression" : row.key, row.top + row.height / 2, colours.ink);
}

function drawWrong(draw, row, colours) {
  const list = timeline.video.wrong.expression;
  for (const [x, width, value] of cells((i) => list[i], any)) if (value) box(draw, x, width, row.top, row.height, colours.error);
  label(draw, "wrong", row.top + row.height / 2, colours.error);
}

function drawUnit(draw, row, colours) {
  const { video } = timeline;
  const at = (list) => (i) => list[i * UNITS + row.key];
  const strip = (list, combine, top, height, colour, base) => {
    for (const [x, width, value] of cells(at(list), combine)) {
      if (base && !Number.isNaN(value)) box(draw, x, width, top, height, colours.line, 0.5);
      if (value) box(draw, x, width, top, height, colour, value);
    }
  };
  const below = row.top + UNIT_TRUE, bottom = below + UNIT_WRONG;
  if (video.true.au) strip(video.true.au, level, row.top, UNIT_TRUE, colours.ink, true);
  if (video.predicted.au) strip(video.predicted.au, level, bottom, UNIT_PREDICTED, colours.accent, true);
  strip(video.wrong.au, any, below, UNIT_WRONG, colours.error, false);
  label(draw, DATA.actionUnits[row.key], below + 3, colours.ink);
}

function drawAxis(draw, colours) {
  const { video, from, to } = timeline;
  const y = timeline.height - AXIS + 12;
  draw.fillStyle = colours.muted;
  draw.textAlign = "center";
  const ticks = Math.max(Math.min(Math.floor(plotWidth() / 90), to - from), 1);
  for (let k = 0; k < ticks; k++) {
    const i = Math.floor(from + ((k + 0.5) / ticks) * (to - from));
    draw.fillText(video.frames[i], centre(i), y);
  }
  label(draw, "frame", y, colours.muted);
  const marks = longJumps();
  if (marks.length > MOST_JUMPS) return;
  draw.strokeStyle = colours.muted;
  draw.lineWidth = 1;
  draw.setLineDash([2, 3]);
  for (const i of marks) line(draw, left(i), 4, left(i), timeline.height - AXIS);
  draw.setLineDash([]);
}

// Frames in view before which far more frame numbers are missing than is usual in this video.
function longJumps() {
  const { video, from, to } = timeline;
  const jumps = Array.from(video.frames.subarray(1), (v, i) => v - video.frames[i]);
  const usual = [...jumps].sort((a, b) => a - b)[jumps.length >> 1];
  const long = [];
  for (let i = Math.max(from, 1); i < to; i++) if (jumps[i - 1] > Math.max(30, 8 * usual)) long.push(i);
  return long;
}

function drawCursor(i) {
  const draw = context(timeline.overlay);
  const colours = inks();
  const x = centre(i);
  const frameWidth = plotWidth() / (timeline.to - timeline.from);
  draw.fillStyle = colours.ink;
  draw.globalAlpha = 0.12;
  if (frameWidth > 3) draw.fillRect(left(i), 2, frameWidth, timeline.height - AXIS);
  draw.globalAlpha = 1;
  draw.fillRect(x - 0.75, 2, 1.5, timeline.height - AXIS);
  for (const row of timeline.rows) {
    if (row.kind !== "va") continue;
    for (const [part, colour] of [["true", colours.ink], ["predicted", colours.accent]]) {
      const list = timeline.video[part][row.key];
      if (!list || Number.isNaN(list[i])) continue;
      draw.fillStyle = colours.paper;
      dot(draw, x, courseY(row, list[i]), 5);
      draw.fillStyle = colour;
      dot(draw, x, courseY(row, list[i]), 3.5);
    }
  }
  const text = String(timeline.video.frames[i]);
  const half = draw.measureText(text).width / 2 + 6;
  const middle = Math.min(Math.max(x, GUTTER + half), GUTTER + plotWidth() + RIGHT - half);
  draw.fillStyle = colours.ink;
  draw.fillRect(middle - half, timeline.height - AXIS + 2, 2 * half, 20);
  draw.fillStyle = colours.paper;
  draw.textAlign = "center";
  draw.fillText(text, middle, timeline.height - AXIS + 12.5);
}

function box(draw, x, width, top, height, colour, alpha = 1) {
  draw.globalAlpha = alpha;
  draw.fillStyle = colour;
  draw.fillRect(x, top, width, height);
  draw.globalAlpha = 1;
}

function dot(draw, x, y, radius) {
  draw.beginPath();
  draw.arc(x, y, radius, 0, 2 * Math.PI);
  draw.fill();
}

function line(draw, x0, y0, x1, y1) {
  draw.beginPath();
  draw.moveTo(x0, y0);
  draw.lineTo(x1, y1);
  draw.stroke();
}

// [first, end) of each stretch of frames that pass a test.
function stretches(first, end, test) {
  const ranges = [];
  for (let i = first, start = -1; i <= end; i++) {
    const passes = i < end && test(i);
    if (passes && start < 0) start = i;
    if (!passes && start >= 0) {
      ranges.push([start, i]);
      start = -1;
    }
  }
  return ranges;
}

// [x, width, value] of each cell of a strip, neighbours of equal value joined. Where there are more frames than pixels,
// `combine` makes one value of the frames [a, b) of a pixel, so that no frame is drawn over another.
function cells(at, combine) {
  const { from, to } = timeline;
  const count = Math.min(to - from, Math.floor(plotWidth()));
  const first = (k) => from + Math.floor((k * (to - from)) / count);
  const list = [];
  for (let k = 0, start = 0, value = combine(at, from, first(1)); k < count; k++) {
    const next = k + 1 < count ? combine(at, first(k + 1), first(k + 2)) : undefined;
    if (Object.is(next, value)) continue;
    list.push([left(first(start)), left(first(k + 1)) - left(first(start)), value]);
    start = k + 1;
    value = next;
  }
  return list;
}

function middle(at, a, b) {
  return at((a + b) >> 1);
}

// An error is shown, however many frames share its pixel.
function any(at, a, b) {
  for (let i = a; i < b; i++) if (at(i)) return 1;
  return 0;
}

// The mean of the known values, rounded to sixteenths, so that neighbours are equal and are joined.
function level(at, a, b) {
  const average = mean();
  for (let i = a; i < b; i++) if (!Number.isNaN(at(i))) average.add(at(i));
  return Math.round(average.value() * 16) / 16;
}
