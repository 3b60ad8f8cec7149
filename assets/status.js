// The line of words under a picture or a talk: phase, progress, notes, place in the line. Runs once when its component
// loads, with `element`, `props`, `server` and `trigger` from Gradio, before the script that goes on with the message.
const $ = (selector) => element.querySelector(selector);
const root = $('.stage');
let ticket = null;       // of the run whose messages come in
let begun = null;        // the last run that was asked for
let asking = null;
let unheard = 0;         // answers in a row that there is no such place: the run begins, or the server gave it up
const still = matchMedia('(prefers-reduced-motion: reduce)');

// While the request waits for the model, ask for its place in the line.
function ask() {
  clearTimeout(asking);
  if (root.dataset.phase !== 'waiting') return;
  asking = setTimeout(async () => {
    try {
      const place = await server.place(ticket);
      unheard = place ? 0 : unheard + 1;
      const words = place || (unheard > 5 && 'This page was away for so long that it lost its place. Leave the line and start again.');
      if (words && root.dataset.phase === 'waiting') $('.stage-status').textContent = words;
    } catch (error) {
      console.warn('The place in the line is not known just now.', error);
    }
    ask();
  }, 600);
}

// A step can take minutes, and the server is only heard of after it.
document.addEventListener('click', ({ target }) => {
  const stop = target.closest('.stop-button');
  if (!stop || root.dataset.phase !== 'running' || !stop.closest('.task-tab')?.contains(root)) return;
  $('.stage-status').textContent = $('.stage-spoken').textContent = 'Stopping after this step …';
});

function setPhase(phase) {
  const starts = phase === 'running' && root.dataset.phase !== phase;
  root.dataset.phase = phase;
  if (starts) ($('.stage-foot') || root).scrollIntoView({ block: 'nearest', behavior: still.matches ? 'auto' : 'smooth' });
  const tab = element.closest('.task-tab');
  if (!tab) return;
  const buttons = [...tab.querySelectorAll('.run-button, .stop-button, .leave-button')];
  const held = buttons.includes(document.activeElement);
  tab.dataset.phase = phase;
  const visible = buttons.find((button) => button.offsetParent);
  if (held && visible) visible.focus({ preventScroll: true });  // the keyboard stays where it was
}

function announce(message) {
  ticket = message.run;
  const news = root.dataset.phase !== message.phase || message.final;
  setPhase(message.phase);
  $('.stage-status').textContent = message.status;
  const notes = message.phase === 'waiting' ? message.notes : [];  // they stay the same from then on
  if (news) $('.stage-spoken').textContent = [message.status, ...notes].join(' ');
  $('.stage-progress i').style.width = `${Math.round(message.progress * 1000) / 10}%`;
  $('.stage-notes').replaceChildren(...message.notes.map((note) => {
    const item = document.createElement('li');
    item.textContent = note;
    return item;
  }));
  if (message.phase === 'waiting' && begun !== ticket) {
    begun = ticket;
    trigger('begun');
  }
  ask();
}
