// A server that comes back with another checkpoint was started anew: every page that is open then opens anew.
let first = null;
setInterval(async () => {
  try {
    const { since } = await (await fetch(`${window.gradio_config.root}/healthz`, { cache: 'no-store' })).json();
    first ??= since;
    if (since !== first) location.reload();
  } catch { /* it is on its way */ }
}, 1000);
