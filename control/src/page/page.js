// Replaces the state every two seconds. The page works without this script: then the browser loads it anew.
(() => {
  "use strict";
  const PERIOD = 2000, MISSES = 3;
  const byId = id => document.getElementById(id);
  const clock = byId("clock"), pause = byId("pause"), form = byId("filter");
  let paused = false, misses = 0, etag = "", last = new Date(), busy = false;

  const time = date => date.toISOString().slice(11, 19) + "Z";
  const showClock = () => {
    const stale = misses >= MISSES;
    document.body.classList.toggle("stale", stale);
    clock.textContent = stale ? "STALE since " + time(last)
      : paused ? "paused at " + time(last)
      : "updated " + Math.max(0, Math.round((Date.now() - last) / 1000)) + " s ago";
  };

  // The new state, with what the reader has opened and where the reader is.
  const replace = html => {
    const old = byId("state");
    const open = new Set([...old.querySelectorAll("details[open]")].map(details => details.id));
    const scrolled = [...old.querySelectorAll(".scroll")].map(box => [box.id, box.scrollLeft]);
    const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
    old.outerHTML = html;
    const state = byId("state");
    for (const details of state.querySelectorAll("details")) details.open = open.has(details.id);
    for (const [id, left] of scrolled) if (left && byId(id)) byId(id).scrollLeft = left;
    if (focused && byId(focused)) byId(focused).focus({ preventScroll: true });
    const { word, tone, glyph, title, color } = state.dataset;
    const verdict = byId("verdict");
    // A screen reader reads it when it changes, and only then.
    if (verdict.dataset.word !== word) {
      verdict.dataset.word = word;
      verdict.className = tone;
      verdict.firstElementChild.textContent = glyph + " " + word;
    }
    document.title = title;
    const icon = byId("icon");
    if (icon.dataset.color !== color) {
      icon.href = icon.href.replaceAll(icon.dataset.color, color);
      icon.dataset.color = color;
    }
  };

  const selecting = () => {
    const selection = getSelection();
    return selection && !selection.isCollapsed && byId("state").contains(selection.anchorNode);
  };

  const refresh = async () => {
    if (busy || paused || document.hidden || selecting()) return;
    busy = true;
    try {
      const query = new URLSearchParams(new FormData(form));
      const answer = await fetch("state?" + query, {
        headers: etag ? { "If-None-Match": etag } : {},
        cache: "no-store",
        signal: AbortSignal.timeout(2 * PERIOD),
      });
      if (answer.status === 200) {
        const html = await answer.text();
        etag = answer.headers.get("ETag") || "";
        replace(html);
      } else if (answer.status !== 304) {
        throw new Error("status " + answer.status);
      }
      misses = 0;
      last = new Date();
    } catch {
      misses += 1;
    }
    busy = false;
    showClock();
  };

  const toggle = () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", paused);
    showClock();
    refresh();
  };
  pause.hidden = false;
  pause.addEventListener("click", toggle);
  form.addEventListener("input", () => { etag = ""; refresh(); });
  form.addEventListener("submit", event => { event.preventDefault(); etag = ""; refresh(); });
  document.addEventListener("visibilitychange", refresh);
  setInterval(refresh, PERIOD);
  setInterval(showClock, 1000);
  showClock();
})();
