"use strict";
// Refreshes the page: fetches it again, and replaces the parts that changed. Nothing within a part can have the focus, be
// scrolled or be opened, so none of that is lost.
(() => {
  const period = Number(document.documentElement.dataset.period) * 1000;
  const old = document.getElementById("old");
  const pause = document.getElementById("pause");
  let timer = null;
  let isPaused = false;

  function show(next) {
    for (const part of document.querySelectorAll("[data-part]")) {
      const other = next.querySelector(`[data-part="${part.dataset.part}"]`);
      if (!other) throw new Error("not the page of connect-trace");
      if (other.className !== part.className) part.className = other.className;
      if (other.innerHTML !== part.innerHTML) part.replaceChildren(...document.adoptNode(other).childNodes);
    }
    document.title = next.title;
  }

  async function refresh() {
    clearTimeout(timer);
    try {
      const answer = await fetch(location.pathname, {
        cache: "no-store", signal: AbortSignal.timeout(Math.max(period, 5000)),
      });
      if (!answer.ok) throw new Error(answer.statusText);
      // The style of the new page is allowed by a number of its own, and would be a complaint here.
      const text = (await answer.text()).replace(/<style[^]*?<\/style>/, "");
      const next = new DOMParser().parseFromString(text, "text/html");
      if (isPaused) return;
      show(next);
      old.hidden = true;
    } catch {
      if (old.hidden) {
        const at = document.getElementById("at").textContent;
        old.textContent = `connect-trace does not answer. These figures are old: ${at}.`;
        old.hidden = false;
        document.title = `No answer: ${document.title}`;
      }
    }
    // Another refresh may have been under way.
    clearTimeout(timer);
    if (!isPaused) timer = setTimeout(refresh, period);
  }

  pause.hidden = false;
  pause.addEventListener("click", () => {
    isPaused = !isPaused;
    pause.textContent = isPaused ? "Resume" : "Pause";
    if (isPaused) clearTimeout(timer); else refresh();
  });
  // A browser slows the timers of a page that nobody sees.
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && !isPaused) refresh();
  });
  timer = setTimeout(refresh, period);
})();
