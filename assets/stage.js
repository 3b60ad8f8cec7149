// Draws the stage. Goes on where assets/status.js ends, with `element`, `props` and `watch` from Gradio.
const canvas = $('canvas');
const pen = canvas.getContext('2d');
const finished = $('.stage-final');
const before = $('.stage-before');
const cut = $('.stage-cut');
const slider = $('.stage-replay input');
const readout = $('output');
const REPLAY_MS = 90;
const KEPT = 24;         // pictures whose steps stay here for a replay

const album = new Map(); // "ticket/index" -> {frames, final, before, alt, columns, rows}, oldest first
let current = null;      // the entry of the album on the stage
let wish = 'committed';  // the view that was chosen; there is not always something to compare
let view = wish;
let shown = 0;           // place on the slider: a frame, or frames.length for the finished picture
let latest = 0;          // counts paint requests, so that a late decode never paints over a newer picture
let replay = null;
let aside = false;       // whether somebody looks at an earlier picture while a run goes on, until its own is there

function entry(message) {
  const key = `${message.run}/${message.index}`;
  if (!album.has(key)) {
    album.set(key, { frames: [], final: null, before: null });
    if (album.size > KEPT) album.delete(album.keys().next().value);
  }
  const { alt, columns, rows } = message;  // a message without a picture, such as the first of a run, knows none of them
  return columns ? Object.assign(album.get(key), { alt, columns, rows }) : album.get(key);
}

function rampColour(byte) {
  const stops = props.ramp;
  const place = ((byte - 1) / 254) * (stops.length - 1);
  const left = Math.min(Math.floor(place), stops.length - 2);
  const mix = (c) => Math.round(stops[left][c] + (place - left) * (stops[left + 1][c] - stops[left][c]));
  return `rgb(${mix(0)},${mix(1)},${mix(2)})`;
}

function resize() {
  const { columns, rows } = current;
  if (!columns) return;
  const cell = Math.max(4, Math.round(768 / Math.max(columns, rows)));
  if (canvas.width !== columns * cell || canvas.height !== rows * cell) {
    canvas.width = columns * cell;
    canvas.height = rows * cell;
  }
  root.style.setProperty('--aspect', columns / rows);
}

function eachCell(cells, draw) {
  const cell = canvas.width / current.columns;
  cells.forEach((byte, i) => draw(byte, (i % current.columns) * cell, Math.floor(i / current.columns) * cell, cell, i));
}

// The picture is decoded before anything is drawn: the last one stays until the new one is ready.
function paint(frame, last) {
  const mine = ++latest;
  const picture = new Image();
  picture.onload = () => {
    if (mine !== latest) return;
    const style = getComputedStyle(root);
    pen.imageSmoothingQuality = 'high';
    pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
    if (view === 'confidence') {
      eachCell(frame.cells, (byte, x, y, cell) => {
        if (!byte) return;
        pen.fillStyle = rampColour(byte);
        pen.fillRect(x, y, cell + 1, cell + 1);
      });
    }
    if (view !== 'prediction') {
      const gap = style.getPropertyValue('--tile-gap').trim();
      const tile = style.getPropertyValue('--tile').trim();
      eachCell(frame.cells, (byte, x, y, cell) => {
        if (byte) return;
        const edge = Math.max(0.75, cell * 0.03);
        pen.fillStyle = gap;
        pen.fillRect(x, y, cell, cell);
        pen.fillStyle = tile;
        pen.fillRect(x + edge, y + edge, cell - 2 * edge, cell - 2 * edge);
      });
    }
    if (last && view === 'committed' && !still.matches) {
      pen.fillStyle = 'rgba(255, 255, 255, 0.28)';  // a flash on what was decided since
      eachCell(frame.cells, (byte, x, y, cell, i) => { if (byte && !last.cells[i]) pen.fillRect(x, y, cell, cell); });
    }
    root.dataset.drawn = String(Number(root.dataset.drawn || 0) + 1);
  };
  picture.src = frame.picture;
}

function look(at) {
  if (view === at) return;
  view = root.dataset.view = at;
  $('.stage-views').querySelectorAll('button').forEach((button) => {
    const pressed = button.dataset.view === at;
    button.setAttribute('aria-pressed', String(pressed));
    if (pressed) $('.stage-help').textContent = button.title;
  });
}

function show(place, flash) {
  const { frames, final } = current;
  const both = Boolean(final && current.before);
  root.dataset.both = String(both);
  look(wish === 'compare' && !both ? 'committed' : wish);
  shown = Math.min(place, frames.length);
  const atEnd = final && shown >= frames.length;
  resize();
  if (atEnd && (view !== 'confidence' || !frames.length)) {
    latest += 1;
    if (finished.getAttribute('src') !== final) finished.src = final;
    finished.alt = current.alt;
    if (both && before.getAttribute('src') !== current.before) before.src = current.before;
    root.dataset.showing = both && view === 'compare' ? 'both' : 'final';
  } else if (frames.length) {
    const at = Math.min(shown, frames.length - 1);
    paint(frames[at], flash && at > 0 ? frames[at - 1] : null);
    root.dataset.showing = 'steps';
  } else {
    root.dataset.showing = 'nothing';
  }
  root.dataset.replay = String(frames.length > 1);
  slider.max = Math.max(0, frames.length - (final ? 0 : 1));
  slider.value = shown;
  const frame = frames[Math.min(shown, frames.length - 1)];
  readout.textContent = !frame ? '' : atEnd ? 'result' : `${frame.step} / ${frame.steps}`;
  slider.setAttribute('aria-valuetext', readout.textContent);
}

function stopReplay() {
  clearInterval(replay);
  replay = null;
  root.classList.remove('replaying');
}

function play() {
  if (replay) { stopReplay(); return; }
  let place = 0;
  show(0, true);
  root.classList.add('replaying');
  replay = setInterval(() => {
    place += 1;
    show(place, true);
    if (place >= Number(slider.max)) stopReplay();
  }, REPLAY_MS);
}

// So that the pictures come back when this page is opened anew (ui/page.py).
function remember(run) {
  try {
    const runs = JSON.parse(sessionStorage.getItem('dimoo-pictures') || '[]').filter((other) => other !== run);
    sessionStorage.setItem('dimoo-pictures', JSON.stringify([...runs, run].slice(-60)));
  } catch (error) {
    console.warn('The pictures will not outlast this page.', error);  // storage is switched off
  }
}

function receive() {
  const message = props.value;
  stopReplay();
  const other = message.run !== ticket;
  const busy = ['waiting', 'running'].includes(root.dataset.phase);
  if (busy && !message.run) return;  // it is about no run, and there is one to be told of
  const earlier = message.phase === 'done' && !message.fresh;  // a picture of the session that somebody clicked on
  aside = busy && (earlier || (aside && !other && !message.final));
  if (other && !(busy && earlier)) root.dataset.drawn = '0';
  const its = message.phase === 'failed' && current ? current : entry(message);  // a failure leaves what there is
  const known = its.frames.length ? its.frames[its.frames.length - 1].step : -1;
  for (const { step, steps, picture, cells } of message.frames) {
    if (step <= known) continue;
    its.frames.push({ step, steps, picture, cells: Uint8Array.from(atob(cells), (c) => c.charCodeAt(0)) });
  }
  if (message.before) its.before = message.before;
  if (message.final) {
    its.final = message.final;
    if (message.fresh) {
      remember(message.run);
      trigger('finished');
    }
  }
  const empty = !its.frames.length && !its.final;  // while it waits, or when it leaves the line, the last picture stays
  if ((earlier || !aside) && !(empty && current && (current.frames.length || current.final))) {
    current = its;
    show(Infinity, !message.final);
  }
  if (!(busy && earlier)) announce(message);  // what is said, and what can be done, is the run's
}

element.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button) return;
  if (button.classList.contains('stage-play')) { play(); return; }
  if (!button.dataset.view) return;
  wish = button.dataset.view;
  look(wish);
  if (current) show(shown, false);
});
cut.addEventListener('input', () => root.style.setProperty('--cut', `${cut.value}%`));
slider.addEventListener('input', () => { stopReplay(); show(Number(slider.value), true); });
watch('value', receive);
