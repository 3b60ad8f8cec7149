// Light or dark: the system's choice until somebody presses the button, then theirs. A browser may keep a page inside
// another one, such as a Space, from remembering anything.
const KEY = 'dimoo-theme';
let remembered = null;
try { remembered = localStorage.getItem(KEY); } catch { /* not allowed here */ }
if (remembered) document.body.classList.toggle('dark', remembered === 'dark');
element.querySelector('.masthead-theme').addEventListener('click', () => {
  const dark = document.body.classList.toggle('dark');
  try { localStorage.setItem(KEY, dark ? 'dark' : 'light'); } catch { /* not allowed here */ }
});
