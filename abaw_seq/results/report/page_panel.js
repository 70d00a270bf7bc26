// The panel beside the timeline: all values of one frame, errors marked by colour, a sign and words.

const panel = Object.fromEntries(
  ["frame-number", "frame-place", "picture", "image", "no-image", "va", "expression", "au"].map((id) => [id, document.getElementById(id)]),
);

function make(tag, className, text, parent) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined && text !== null) element.textContent = text;
  if (parent) parent.append(element);
  return element;
}

function signed(value) {
  if (value === undefined || Number.isNaN(value)) return "–";
  return `${value < 0 ? "−" : ""}${Math.abs(value).toFixed(2)}`;
}

function className(index) {
  return index === undefined || Number.isNaN(index) ? "not labelled" : DATA.expressions[index];
}

function value(list, i) {
  return list ? list[i] : NaN;
}

function showFrame(video, i) {
  const frame = String(video.frames[i]);
  panel["frame-number"].textContent = `frame ${frame}`;
  panel["frame-place"].textContent = `${i + 1} of ${video.count}`;
  showImage(video, frame);
  showValues(video, i);
  showExpression(video, i);
  showUnits(video, i);
}

function showImage(video, frame) {
  if (DATA.images === null) return;
  const url = imageUrl(video, frame);
  panel.picture.hidden = false;
  panel["no-image"].hidden = url !== null;
  panel.image.hidden = url === null;
  if (url === null) return;
  panel.image.alt = `${video.name}, frame ${frame}`;
  panel.image.src = url;
}

// Where the image of a frame is; null for a video without images.
function imageUrl(video, frame) {
  if (!Object.hasOwn(DATA.imageNames, video.name)) return null;
  const images = DATA.imageNames[video.name];
  const name = images.others[frame] ?? `${images.prefix}${frame.padStart(images.width, "0")}${images.suffix}`;
  return DATA.images + [...images.folder.split("/"), name].map(encodeURIComponent).join("/");
}

panel.image.addEventListener("error", () => {
  panel.image.hidden = true;
  panel["no-image"].hidden = false;
});

function showValues(video, i) {
  panel.va.replaceChildren();
  for (const task of ["valence", "arousal"]) {
    const truth = value(video.true[task], i), predicted = value(video.predicted[task], i);
    const difference = Math.abs(truth - predicted);
    const wrong = difference > DATA.vaError;
    const row = make("tr", wrong ? "wrong" : "", null, panel.va);
    make("th", "name", task, row).scope = "row";
    make("td", "", signed(truth), row);
    make("td", "", signed(predicted), row);
    make("td", "mark", `${signed(difference)}${wrong ? " ✗" : ""}`, row);
  }
}

function heading(parent, title, note, wrong) {
  const element = make("h3", "", title, parent);
  make("span", wrong ? "wrong" : "", note, element);
}

function showExpression(video, i) {
  const box = panel.expression;
  box.replaceChildren();
  if (!video.true.expression && !video.predicted.expression) return;
  const truth = value(video.true.expression, i), chosen = value(video.predicted.expression, i);
  const wrong = video.wrong.expression[i] === 1;
  const verdict = Number.isNaN(truth) ? "not labelled" : wrong ? `✗ is ${className(truth)}` : Number.isNaN(chosen) ? `is ${className(truth)}` : "right";
  heading(box, "Expression", verdict, wrong);
  for (let k = 0; k < CLASSES; k++) {
    const share = value(video.predicted.probabilities, i * CLASSES + k);
    const row = make("div", `row${k === chosen ? " chosen" : ""}${wrong && k === chosen ? " wrong" : ""}`, null, box);
    make("span", "mark", k === truth ? "●" : k === chosen && wrong ? "✗" : "", row);
    make("span", "name", DATA.expressions[k], row);
    bar(row, share, DATA.colours[k]);
  }
}

function showUnits(video, i) {
  const box = panel.au;
  box.replaceChildren();
  if (!video.true.au && !video.predicted.au) return;
  const at = (list, k) => value(list, i * UNITS + k);
  let count = 0, labelled = 0;
  for (let k = 0; k < UNITS; k++) {
    count += video.wrong.au[i * UNITS + k];
    labelled += !Number.isNaN(at(video.true.au, k));
  }
  heading(box, "Action units", labelled ? (count ? `✗ ${count} wrong` : "all right") : "not labelled", count > 0);
  for (let k = 0; k < UNITS; k++) {
    const wrong = video.wrong.au[i * UNITS + k] === 1;
    const on = at(video.true.au, k) === 1;
    const row = make("div", `row au${wrong ? " wrong" : ""}${on ? " chosen" : ""}`, null, box);
    row.title = DATA.meanings[k] + (wrong ? `: ${unitFault(video, i, k)}` : "");
    make("span", "mark", (on ? "●" : "") + (wrong ? "✗" : ""), row);
    make("span", "name", DATA.actionUnits[k], row);
    bar(row, at(video.predicted.au, k), null);
  }
}

function unitFault(video, i, k) {
  return video.true.au[i * UNITS + k] === 1 ? "missed" : "false alarm";
}

function bar(row, share, colour) {
  const fill = make("span", "fill", null, make("span", "track", null, row));
  fill.style.display = "block";
  fill.style.width = `${Number.isNaN(share) ? 0 : share * 100}%`;
  if (colour) fill.style.background = colour;
  make("span", "value", Number.isNaN(share) ? "–" : share.toFixed(2), row);
}

function showLegend(box) {
  box.replaceChildren();
  const colours = inks();
  const entry = (text, colour, stroke) => {
    const item = make("span", "", null, box);
    make("span", `swatch${stroke ? " stroke" : ""}`, null, item).style.background = colour;
    item.append(text);
  };
  if (DATA.labelled) entry("annotated", colours.ink, true);
  entry("predicted", colours.accent, true);
  if (DATA.labelled) entry("wrong", colours.error, true);
  DATA.expressions.forEach((name, k) => entry(name, DATA.colours[k]));
}

function describeFrame(video, i) {
  const words = [`frame ${video.frames[i]}`];
  const truth = value(video.true.expression, i), chosen = value(video.predicted.expression, i);
  if (!Number.isNaN(truth)) words.push(`is ${className(truth)}`);
  if (!Number.isNaN(chosen)) words.push(`predicted ${className(chosen)}`);
  for (const task of ["valence", "arousal"]) {
    const difference = Math.abs(value(video.true[task], i) - value(video.predicted[task], i));
    if (difference > DATA.vaError) words.push(`${task} off by ${difference.toFixed(2)}`);
  }
  for (let k = 0; k < UNITS; k++) {
    if (video.wrong.au[i * UNITS + k]) words.push(`${DATA.actionUnits[k]} ${unitFault(video, i, k)}`);
  }
  return words.join(", ");
}
