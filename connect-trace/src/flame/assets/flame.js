"use strict";
// Zooms into the frame that is clicked, or has the focus when Enter is pressed; searches names; Escape undoes both.
{
  const svg = document.documentElement;
  const number = (name) => Number(svg.dataset[name]);
  const [width, margin, character] = [number("width"), number("margin"), number("character")];
  const search = document.getElementById("search");
  const found = document.getElementById("found");
  // Positions are shares of the whole width. Rounded shares of neighbours can overlap by this much.
  const EDGE = 2e-6;
  // Frames that are narrower, in pixels, cannot be seen.
  const NARROW = 0.2;
  const frames = [...document.querySelectorAll(".frame")].map((g) => ({
    g,
    rect: g.querySelector("rect"),
    text: g.querySelector("text"),
    name: g.dataset.name,
    start: Number(g.dataset.start),
    width: Number(g.dataset.width),
    depth: Number(g.dataset.depth),
    shown: true,
  }));
  const byElement = new Map(frames.map((frame) => [frame.g, frame]));
  const root = frames[0];

  const contains = (outer, inner) =>
    outer.start <= inner.start + EDGE && outer.start + outer.width >= inner.start + inner.width - EDGE;
  const fitting = (name, pixels) => {
    const room = Math.floor((pixels - 6) / character);
    if ([...name].length <= room) return name;
    return room < 3 ? "" : `${[...name].slice(0, room - 1).join("")}\u2026`;
  };

  const zoom = (to) => {
    const scale = (width - 2 * margin) / to.width;
    for (const frame of frames) {
      const isBelow = frame.depth < to.depth && contains(frame, to);
      const isWithin = frame.depth >= to.depth && contains(to, frame);
      const pixels = isBelow ? width - 2 * margin : frame.width * scale;
      frame.shown = isBelow || (isWithin && pixels >= NARROW);
      frame.g.style.display = frame.shown ? "" : "none";
      frame.g.classList.toggle("below", isBelow);
      if (!frame.shown) continue;
      const x = isBelow ? margin : margin + (frame.start - to.start) * scale;
      frame.rect.setAttribute("x", x.toFixed(2));
      frame.rect.setAttribute("width", pixels.toFixed(2));
      frame.text.setAttribute("x", (x + 3).toFixed(2));
      frame.text.textContent = fitting(frame.name, pixels);
    }
    svg.dataset.zoomed = to.name;
  };

  const find = () => {
    const wanted = search.value.trim().toLowerCase();
    let end = -1;
    let share = 0;
    let count = 0;
    // Frames come in the order of their starts, callers first: what lies on a hit counts with it.
    for (const frame of frames) {
      const hit = wanted !== "" && frame.name.toLowerCase().includes(wanted);
      frame.g.classList.toggle("hit", hit);
      if (!hit) continue;
      count += 1;
      if (frame.start >= end - EDGE) {
        share += frame.width;
        end = frame.start + frame.width;
      }
    }
    found.textContent = wanted === "" ? "" : `${count} frames, ${(share * 100).toFixed(1)} % of the time`;
  };

  const reset = () => {
    search.value = "";
    find();
    zoom(root);
  };

  // The frame beside, on or below another one; undefined if there is none.
  const neighbour = (frame, key) => {
    const shown = frames.filter((other) => other.shown);
    const row = shown.filter((other) => other.depth === frame.depth);
    const widest = (all) => all.reduce((one, other) => (one && one.width >= other.width ? one : other), undefined);
    switch (key) {
      case "ArrowUp":
        return widest(shown.filter((other) => other.depth === frame.depth + 1 && contains(frame, other)));
      case "ArrowDown":
        return shown.find((other) => other.depth === frame.depth - 1 && contains(other, frame));
      case "ArrowLeft":
        return row[row.indexOf(frame) - 1];
      case "ArrowRight":
        return row[row.indexOf(frame) + 1];
    }
  };

  const frameOf = (target) => byElement.get(target.closest?.(".frame"));
  svg.addEventListener("click", (event) => {
    const frame = frameOf(event.target);
    if (frame) zoom(frame);
  });
  addEventListener("keydown", (event) => {
    const isFind = event.key === "f" && (event.ctrlKey || event.metaKey);
    const isPlain = !event.ctrlKey && !event.metaKey && !event.altKey;
    if (isFind || (event.key === "/" && isPlain && document.activeElement !== search)) {
      event.preventDefault();
      search.focus();
      search.select();
      return;
    }
    if (event.key === "Escape") {
      reset();
      return;
    }
    const frame = frameOf(event.target);
    if (!frame || !isPlain) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      zoom(frame);
      return;
    }
    const next = neighbour(frame, event.key);
    if (next) {
      event.preventDefault();
      next.g.focus();
    }
  });
  search.addEventListener("input", find);
  document.getElementById("reset").addEventListener("click", reset);
  document.getElementById("controls").removeAttribute("visibility");
}
