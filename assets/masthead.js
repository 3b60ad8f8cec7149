// Light or dark: the system's choice until somebody presses the button, then theirs.
const remembered = localStorage.getItem('dimoo-theme');
if (remembered) document.body.classList.toggle('dark', remembered === 'dark');
element.querySelector('.masthead-theme').addEventListener('click', () => {
  const dark = document.body.classList.toggle('dark');
  localStorage.setItem('dimoo-theme', dark ? 'dark' : 'light');
});
