// The inlined predictions as arrays, and what counts as an error in them.

const DATA = JSON.parse(document.getElementById("data").textContent);
const CLASSES = DATA.expressions.length;
const UNITS = DATA.actionUnits.length;
const ERROR_KINDS = {
  main: "expressions and valence/arousal",
  expression: "expressions",
  va: "valence/arousal",
  au: "action units",
};

function bytesOf(text) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

function values(text) {
  if (text === null) return null;
  return Float32Array.from(new Int16Array(bytesOf(text).buffer), (v) => (v === -32768 ? NaN : v / DATA.valueSteps));
}

function classes(text) {
  return text === null ? null : Float32Array.from(bytesOf(text), (v) => (v === 255 ? NaN : v));
}

function probabilities(text) {
  return text === null ? null : Float32Array.from(bytesOf(text), (v) => (v === 255 ? NaN : v / DATA.probabilitySteps));
}

// One video of one run, unpacked: frame numbers, `true` and `predicted` values (null for a task that is
// absent, NaN for a value that is absent), and `wrong`.
const opened = new Map();
function openVideo(run, index) {
  const key = `${run} ${index}`;
  if (!opened.has(key)) {
    const packed = DATA.runs[run].videos[index];
    const truth = DATA.truths[packed.truth];
    const video = {
      name: packed.name,
      frames: new Int32Array(bytesOf(truth.frames).buffer),
      true: {
        valence: values(truth.valence), arousal: values(truth.arousal),
        expression: classes(truth.expression), au: classes(truth.au),
      },
      predicted: {
        valence: values(packed.valence), arousal: values(packed.arousal),
        expression: classes(packed.decision), probabilities: probabilities(packed.expression),
        au: probabilities(packed.au),
      },
    };
    video.count = video.frames.length;
    video.wrong = findErrors(video);
    opened.set(key, video);
  }
  return opened.get(key);
}

// expression: 1 where the classes differ; va: the larger of the two differences, NaN where neither is
// known; au: 1 per unit on the wrong side of 0.5; rates: share wrong, or mean difference, over the video.
function findErrors(video) {
  const { true: truth, predicted, count } = video;
  const expression = new Uint8Array(count);
  const va = new Float32Array(count).fill(NaN);
  const au = new Uint8Array(count * UNITS);
  const rates = { expression: mean(), va: mean(), au: mean() };
  for (let i = 0; i < count; i++) {
    if (truth.expression && predicted.expression && known(truth.expression[i], predicted.expression[i])) {
      expression[i] = truth.expression[i] !== predicted.expression[i];
      rates.expression.add(expression[i]);
    }
    for (const task of ["valence", "arousal"]) {
      if (!truth[task] || !predicted[task] || !known(truth[task][i], predicted[task][i])) continue;
      const difference = Math.abs(truth[task][i] - predicted[task][i]);
      va[i] = Number.isNaN(va[i]) ? difference : Math.max(va[i], difference);
      rates.va.add(difference);
    }
    for (let k = i * UNITS; truth.au && predicted.au && k < (i + 1) * UNITS; k++) {
      if (!known(truth.au[k], predicted.au[k])) continue;
      au[k] = truth.au[k] !== Number(predicted.au[k] >= 0.5);
      rates.au.add(au[k]);
    }
  }
  for (const kind in rates) rates[kind] = rates[kind].value();
  return { expression, va, au, rates };
}

function known(...numbers) {
  return !numbers.some(Number.isNaN);
}

function mean() {
  let sum = 0, count = 0;
  return { add: (v) => { sum += v; count += 1; }, value: () => (count ? sum / count : NaN) };
}

// Frames to jump to, rising: where a stretch of wrong expressions begins or changes, the peak of each
// stretch of large valence/arousal errors, and where one more action unit turns wrong.
function errorFrames(video, kind) {
  const frames = new Set();
  const { expression, va, au } = video.wrong;
  const differs = (list, i) => list[i] !== list[i - 1];
  if (kind === "main" || kind === "expression") {
    for (let i = 0; i < video.count; i++) {
      if (!expression[i]) continue;
      const same = i > 0 && expression[i - 1] && !differs(video.true.expression, i) && !differs(video.predicted.expression, i);
      if (!same) frames.add(i);
    }
  }
  if (kind === "main" || kind === "va") {
    for (let i = 0, peak = -1; i <= video.count; i++) {
      if (i < video.count && va[i] > DATA.vaError) {
        if (peak < 0 || va[i] > va[peak]) peak = i;
      } else if (peak >= 0) {
        frames.add(peak);
        peak = -1;
      }
    }
  }
  if (kind === "au") {
    for (let k = 0; k < au.length; k++) if (au[k] && !(k >= UNITS && au[k - UNITS])) frames.add(Math.floor(k / UNITS));
  }
  return [...frames].sort((a, b) => a - b);
}

function worstFrame(video) {
  let worst = -1;
  for (let i = 0; i < video.count; i++) if (video.wrong.va[i] > (worst < 0 ? 0 : video.wrong.va[worst])) worst = i;
  return worst;
}
