"use strict";
// The scatter plot: draws the points, and shows the details of the selected one. Texts from the data are only ever
// inserted as text nodes.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const element = (id) => document.getElementById(id);
  const canvas = element("canvas");
  const context = canvas.getContext("2d");
  const tip = element("tip");
  const box = element("box");
  const FAILED = 3;
  const SHAPES = [
    "M8 4a4 4 0 1 0 .01 0z", "M4 4l8 8m0 -8l-8 8", "M8 3l5 5l-5 5l-5 -5z", "M4 4h8v8h-8z",
  ];
  const margin = { left: 58, right: 10, top: 20, bottom: 38 };

  let set = null;      // the displayed run
  let xs = null;       // horizontal values of its points
  let view = null;     // displayed part of the axes: x0, x1, y0, y1
  let places = null;   // position of each point on the screen, or -1
  let picture = null;  // the drawn points
  let chosen = -1;     // index of the point that the tooltip describes, or -1
  let inView = 0;
  let drag = null;
  const axes = { across: "time", scale: "log" };

  // ---- numbers for people

  const count = (number) => Math.round(number).toString().replace(/\B(?=(\d{3})+$)/g, ",");

  function time(ns, digits = 3) {
    if (ns === 0) return "0";
    const [value, unit] = ns < 1e3 ? [ns, "ns"] : ns < 1e6 ? [ns / 1e3, "\u00b5s"]
      : ns < 1e9 ? [ns / 1e6, "ms"] : [ns / 1e9, "s"];
    const text = value.toPrecision(digits);
    return `${text.includes("e") ? Math.round(value) : parseFloat(text)} ${unit}`;
  }

  // ---- the data

  function bytes(text) {
    const raw = atob(text);
    const array = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) array[i] = raw.charCodeAt(i);
    return array.buffer;
  }

  function load(set) {
    if (set.latency) return;
    set.latency = new Float32Array(bytes(set.latencies));
    set.seconds = Float64Array.from(new Uint32Array(bytes(set.times)), (step) => step * set.unit);
    set.port = new Uint16Array(bytes(set.ports));
    set.detail = new Uint16Array(bytes(set.of));
    set.number = set.numbers === null ? Uint32Array.from(set.latency, (_, i) => i)
      : new Uint32Array(bytes(set.numbers));
    set.kind = Uint8Array.from(set.detail, (detail) => set.details[detail][0]);
    set.times = set.latencies = set.ports = set.of = set.numbers = null;
  }

  const onY = (ns) => (axes.scale === "log" ? Math.log10(Math.max(ns, 1)) : ns);
  const fromY = (y) => (axes.scale === "log" ? 10 ** y : y);

  function everything() {
    let [x1, longest] = [0, 0];
    for (let i = 0; i < xs.length; i++) {
      if (xs[i] > x1) x1 = xs[i];
      if (set.latency[i] > longest) longest = set.latency[i];
    }
    const [y0, y1] = axes.scale === "log" ? [data.low, data.high] : [0, longest * 1.05 || 1];
    return { x0: 0, x1: x1 || 1, y0, y1 };
  }

  const isWhole = () => {
    const all = everything();
    return Object.keys(all).every((end) => all[end] === view[end]);
  };

  function zoom(next) {
    const all = everything();
    const [width, height] = [all.x1 - all.x0, all.y1 - all.y0];
    const clamped = {
      x0: Math.max(next.x0, all.x0), x1: Math.min(next.x1, all.x1),
      y0: Math.max(next.y0, all.y0), y1: Math.min(next.y1, all.y1),
    };
    // At a closer zoom the numbers have no more digits.
    if (clamped.x1 - clamped.x0 < width * 1e-8 || clamped.y1 - clamped.y0 < height * 1e-6) return;
    view = clamped;
    draw();
  }

  function zoomBy(factor, x, y) {
    const around = (low, high, at) => [at - (at - low) * factor, at + (high - at) * factor];
    const [x0, x1] = around(view.x0, view.x1, x);
    const [y0, y1] = around(view.y0, view.y1, y);
    zoom({ x0, x1, y0, y1 });
  }

  function reset() {
    view = everything();
    draw();
  }

  // ---- drawing

  const plot = () => ({
    width: Math.max(canvas.clientWidth - margin.left - margin.right, 10),
    height: Math.max(canvas.clientHeight - margin.top - margin.bottom, 10),
  });

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  // The color as a pixel of an ImageData, on the usual little-endian machine.
  function pixel(name) {
    const hex = parseInt(color(name).slice(1), 16);
    return (0xff000000 | (hex & 0xff) << 16 | (hex & 0xff00) | hex >> 16) >>> 0;
  }

  // The pixels of a kind's shape, relative to its centre.
  function shape(kind, radius) {
    const inside = [
      // The smallest shape is the same for all kinds: it has no room for details.
      (x, y) => x * x + y * y <= radius * radius + (radius > 1 ? radius : 0.5),
      (x, y) => Math.abs(Math.abs(x) - Math.abs(y)) <= (radius > 2 ? 1 : 0),
      (x, y) => Math.abs(x) + Math.abs(y) <= radius,
      () => true,
    ][kind];
    const pixels = [];
    for (let y = -radius; y <= radius; y++) {
      for (let x = -radius; x <= radius; x++) if (inside(x, y)) pixels.push([x, y]);
    }
    return pixels;
  }

  function linearTicks(low, high, about) {
    const rough = (high - low) / about;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((s) => s * power).find((s) => s >= rough) || rough;
    const ticks = [];
    for (let n = Math.ceil(low / step); n * step <= high && ticks.length < 50; n++) ticks.push(n * step);
    return { ticks, step };
  }

  function yTicks() {
    const { y0, y1 } = view;
    if (axes.scale === "linear") {
      return linearTicks(y0, y1, 5).ticks.map((ns) => [ns, time(ns, 4)]);
    }
    if (y1 - y0 < 0.3) {
      return linearTicks(10 ** y0, 10 ** y1, 5).ticks.map((ns) => [Math.log10(ns), time(ns, 5)]);
    }
    const steps = y1 - y0 > 2.5 ? [1] : [1, 2, 5];
    const ticks = [];
    for (let decade = Math.floor(y0); decade <= y1; decade++) {
      for (const step of steps) {
        const y = Math.log10(step) + decade;
        if (y >= y0 && y <= y1) ticks.push([y, time(step * 10 ** decade)]);
      }
    }
    return ticks;
  }

  function xTicks() {
    const { ticks, step } = linearTicks(view.x0, view.x1, plot().width / 90);
    const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    return ticks.map((x) => [x, axes.across === "time" ? `${x.toFixed(decimals)} s` : count(x)]);
  }

  // Draws the points and the parts around them.
  function draw() {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(canvas.clientWidth * ratio);
    canvas.height = Math.round(canvas.clientHeight * ratio);
    const size = plot();
    const [width, height] = [Math.round(size.width * ratio), Math.round(size.height * ratio)];
    picture = context.createImageData(width, height);
    const pixels = new Uint32Array(picture.data.buffer).fill(pixel("paper"));
    const grid = pixel("grid");
    for (const [y] of yTicks()) {
      const row = Math.round((1 - (y - view.y0) / (view.y1 - view.y0)) * (height - 1));
      pixels.fill(grid, row * width, (row + 1) * width);
    }
    places = new Int32Array(xs.length).fill(-1);
    inView = 0;
    const { x0, x1, y0, y1 } = view;
    for (let i = 0; i < xs.length; i++) {
      const [x, y] = [xs[i], onY(set.latency[i])];
      if (x < x0 || x > x1 || y < y0 || y > y1) continue;
      const column = Math.round((x - x0) / (x1 - x0) * (width - 1));
      const row = Math.round((1 - (y - y0) / (y1 - y0)) * (height - 1));
      places[i] = row * width + column;
      inView++;
    }
    const radius = Math.max(1, Math.round((inView > 20000 ? 1 : inView > 2000 ? 2 : 4) * ratio));
    // A few failures among many points must be visible.
    const few = set.counts[FAILED] < 1000 ? Math.max(radius, Math.round(2 * ratio)) : radius;
    const stamps = data.kinds.map((_, kind) => shape(kind, kind === FAILED ? few : radius));
    const inks = data.kinds.map((kind) => pixel(kind.class));
    // In the order of time, so that no kind hides another; failures are drawn last, on top.
    for (const failures of [false, true]) {
      for (let i = 0; i < xs.length; i++) {
        const kind = set.kind[i];
        if (places[i] < 0 || (kind === FAILED) !== failures) continue;
        const column = places[i] % width;
        const row = (places[i] - column) / width;
        for (const [dx, dy] of stamps[kind]) {
          const [x, y] = [column + dx, row + dy];
          if (x >= 0 && x < width && y >= 0 && y < height) pixels[y * width + x] = inks[kind];
        }
      }
    }
    if (chosen >= 0 && places[chosen] < 0) choose(-1);
    paint();
    const whole = isWhole();
    element("reset").disabled = whole;
    element("shown").textContent = `${count(inView)} of ${count(xs.length)} points in view`
      + (whole ? "." : ", zoomed in.");
    canvas.dataset.inView = inView;
    canvas.dataset.points = xs.length;
    canvas.dataset.view = JSON.stringify(view);
  }

  const screenX = (x) => margin.left + (x - view.x0) / (view.x1 - view.x0) * plot().width;
  const screenY = (y) => margin.top + (1 - (y - view.y0) / (view.y1 - view.y0)) * plot().height;

  // Combines the picture, the axes, the line and the mark of the chosen point.
  function paint() {
    const ratio = window.devicePixelRatio || 1;
    const { width, height } = plot();
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = color("paper");
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.putImageData(picture, Math.round(margin.left * ratio), Math.round(margin.top * ratio));
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.font = '12px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif';
    context.fillStyle = color("faint");
    context.textAlign = "right";
    for (const [y, label] of yTicks()) context.fillText(label, margin.left - 7, screenY(y) + 4);
    context.textAlign = "left";
    context.fillText("connect()", 2, 11);
    context.textAlign = "center";
    const bottom = margin.top + height;
    for (const [x, label] of xTicks()) {
      const at = Math.min(screenX(x), canvas.clientWidth - context.measureText(label).width / 2 - 1);
      context.fillText(label, at, bottom + 15);
    }
    const name = axes.across === "time" ? "time of the connect()" : "number of the connect()";
    context.fillText(name, margin.left + width / 2, bottom + 32);
    context.strokeStyle = color("faint");
    context.lineWidth = 1;
    context.strokeRect(margin.left, margin.top, width, height);
    const line = set.lines[`${axes.across}_${axes.scale}`];
    context.save();
    context.beginPath();
    context.rect(margin.left, margin.top, width, height);
    context.clip();
    if (line) {
      context.beginPath();
      context.moveTo(screenX(view.x0), screenY(line.intercept + line.slope * view.x0));
      context.lineTo(screenX(view.x1), screenY(line.intercept + line.slope * view.x1));
      // A halo makes the line visible over points of any colour.
      for (const [name, width] of [["paper", 6], ["regression", 2.5]]) {
        context.strokeStyle = color(name);
        context.lineWidth = width;
        context.stroke();
      }
    }
    if (chosen >= 0) {
      context.strokeStyle = color("ink");
      context.lineWidth = 2;
      context.beginPath();
      context.arc(screenX(xs[chosen]), screenY(onY(set.latency[chosen])), 7, 0, 2 * Math.PI);
      context.stroke();
    }
    context.restore();
  }

  function legend() {
    const list = element("legend");
    list.replaceChildren();
    const item = (path, name, style, text) => {
      const key = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      key.setAttribute("viewBox", "0 0 16 16");
      key.setAttribute("aria-hidden", "true");
      const drawn = document.createElementNS("http://www.w3.org/2000/svg", "path");
      drawn.setAttribute("d", path);
      drawn.setAttribute("stroke", `var(--${name})`);
      drawn.setAttribute("stroke-width", style === "line" ? 2 : 0);
      drawn.setAttribute("fill", style === "line" ? "none" : `var(--${name})`);
      key.append(drawn);
      const entry = document.createElement("li");
      entry.append(key, text);
      list.append(entry);
    };
    data.kinds.forEach((kind, index) => {
      if (set.counts[index] === 0 && index > 1) return;
      const name = `${kind.name} ${count(set.counts[index])}`;
      item(SHAPES[index], kind.class, index === 1 ? "line" : "area", name);
    });
    const line = set.lines[`${axes.across}_${axes.scale}`];
    if (line) {
      const all = everything();
      const at = (x) => time(Math.max(fromY(line.intercept + line.slope * x), 0));
      item("M0 8h16", "regression", "line", `regression of successful calls, ${at(all.x0)} to ${at(all.x1)}`);
    }
  }

  // ---- one connection

  function choose(point) {
    chosen = point;
    tip.hidden = point < 0;
    if (point < 0) return;
    const [kind, errno, source, comm] = set.details[set.detail[point]];
    const parity = ["even", "odd"][kind];
    const port = set.port[point];
    tip.textContent = [
      `connect() ${time(set.latency[point], 5)}`,
      `at ${set.seconds[point].toFixed(6)} s, number ${count(set.number[point])}`,
      port === 0 ? "no port" : `port ${port}${parity ? `, ${parity}` : kind === 2 ? ", bound before" : ""}`,
      errno === "" ? "success" : errno,
      source === null ? "no source address" : `source ${source}`,
      ...(comm === null ? [] : [`thread ${comm}`]),
    ].join("\n");
    const [x, y] = [screenX(xs[point]), screenY(onY(set.latency[point]))];
    const left = x + 14 + tip.offsetWidth > canvas.clientWidth ? x - 14 - tip.offsetWidth : x + 14;
    const top = Math.min(Math.max(y - tip.offsetHeight / 2, 0), canvas.clientHeight - tip.offsetHeight);
    tip.style.left = `${Math.max(left, 0)}px`;
    tip.style.top = `${Math.max(top, 0)}px`;
    canvas.dataset.chosen = point;
  }

  function nearest(event) {
    const ratio = window.devicePixelRatio || 1;
    const { x, y } = place(event);
    const width = picture.width;
    const reach = (event.pointerType === "touch" ? 24 : 14) * ratio;
    const [column, row] = [(x - margin.left) * ratio, (y - margin.top) * ratio];
    let [best, distance] = [-1, reach * reach];
    for (let i = 0; i < places.length; i++) {
      if (places[i] < 0) continue;
      const dx = places[i] % width - column;
      const dy = Math.floor(places[i] / width) - row;
      if (dx * dx + dy * dy <= distance) [best, distance] = [i, dx * dx + dy * dy];
    }
    return best;
  }

  function step(by) {
    let next = chosen < 0 ? (by > 0 ? 0 : xs.length - 1) : chosen + by;
    while (next >= 0 && next < xs.length && places[next] < 0) next += by;
    if (next < 0 || next >= xs.length) return;
    choose(next);
    paint();
  }

  // ---- user input

  const place = (event) => {
    const corner = canvas.getBoundingClientRect();
    return { x: event.clientX - corner.left, y: event.clientY - corner.top };
  };
  const axisX = (x) => view.x0 + (x - margin.left) / plot().width * (view.x1 - view.x0);
  const axisY = (y) => view.y0 + (1 - (y - margin.top) / plot().height) * (view.y1 - view.y0);

  function dragged(event) {
    const to = place(event);
    const area = plot();
    const within = (value, low, length) => Math.min(Math.max(value, low), low + length);
    const ends = (from, to, low, length) =>
      [within(Math.min(from, to), low, length), within(Math.max(from, to), low, length)];
    const [left, right] = ends(drag.x, to.x, margin.left, area.width);
    // A touch selects a range of the horizontal axis only, not a box.
    const [top, bottom] = drag.touch ? [margin.top, margin.top + area.height]
      : ends(drag.y, to.y, margin.top, area.height);
    return { left, right, top, bottom };
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    drag = { ...place(event), touch: event.pointerType === "touch", moved: false };
    try {
      canvas.setPointerCapture(event.pointerId);
    } catch {
      // The pointer has already gone.
    }
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!drag) {
      const point = nearest(event);
      if (point !== chosen) {
        choose(point);
        paint();
      }
      return;
    }
    const at = place(event);
    drag.moved ||= Math.hypot(at.x - drag.x, at.y - drag.y) > 5;
    if (!drag.moved) return;
    choose(-1);
    const { left, right, top, bottom } = dragged(event);
    Object.assign(box.style, {
      left: `${left}px`, top: `${top}px`, width: `${right - left}px`, height: `${bottom - top}px`,
    });
    box.hidden = false;
  });
  canvas.addEventListener("pointerup", (event) => {
    if (!drag) return;
    if (drag.moved) {
      const { left, right, top, bottom } = dragged(event);
      // A line is not a box.
      if (right - left > 3 && bottom - top > 3) {
        zoom({ x0: axisX(left), x1: axisX(right), y0: axisY(bottom), y1: axisY(top) });
      }
    } else {
      choose(nearest(event));
      paint();
    }
    drag = null;
    box.hidden = true;
  });
  canvas.addEventListener("pointercancel", () => {
    drag = null;
    box.hidden = true;
  });
  canvas.addEventListener("pointerleave", () => {
    if (drag || chosen < 0) return;
    choose(-1);
    paint();
  });
  canvas.addEventListener("dblclick", reset);
  canvas.addEventListener("wheel", (event) => {
    // On a page that scrolls, zoom only if the input is meant for the figure.
    if (document.activeElement !== canvas && !event.ctrlKey) return;
    event.preventDefault();
    const { x, y } = place(event);
    zoomBy(event.deltaY > 0 ? 1.25 : 0.8, axisX(x), axisY(y));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    // Zoom around the chosen connection; without one, only horizontally, because no height is given.
    const closer = (factor) => {
      if (chosen >= 0) return zoomBy(factor, xs[chosen], onY(set.latency[chosen]));
      const { x0, x1 } = view;
      const by = (x1 - x0) * (1 - factor) / 2;
      return zoom({ ...view, x0: x0 + by, x1: x1 - by });
    };
    const act = {
      ArrowRight: () => step(1),
      ArrowLeft: () => step(-1),
      "+": () => closer(0.5),
      "=": () => closer(0.5),
      "-": () => closer(2),
      Escape: reset,
      0: reset,
    }[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
  });

  // ---- display

  function show() {
    set = data.sets[Number(element("run").value) || 0];
    load(set);
    xs = axes.across === "time" ? set.seconds : set.number;
    document.querySelectorAll(".run").forEach((run) => {
      run.classList.toggle("chosen", data.sets[run.dataset.run] === set);
    });
    canvas.setAttribute("aria-label", `Latency of each connect(): ${set.name}`);
    choose(-1);
    legend();
    reset();
  }

  if (data.sets.length === 0) return;
  document.documentElement.classList.add("scripted");
  element("run").addEventListener("change", show);
  for (const axis of ["across", "scale"]) {
    element(axis).addEventListener("change", (event) => {
      axes[axis] = event.target.value;
      show();
    });
  }
  element("reset").addEventListener("click", reset);
  show();
  new ResizeObserver(() => draw()).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
})();
