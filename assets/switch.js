// The server closes and comes back with another checkpoint: wait for that, then open its page.
async () => {
  const since = async () => (await (await fetch('healthz', { cache: 'no-store' })).json()).since;
  const before = await since();
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 500));
    try {
      if ((await since()) !== before) break;
    } catch { /* it is on its way */ }
  }
  location.reload();
}
