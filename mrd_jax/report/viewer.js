"use strict";
// Point clouds on canvases: a still one on every tile, one to turn in a dialog.
(() => {
  const data = document.getElementById("clouds"); // where there is a gallery
  const encoded = data ? JSON.parse(data.textContent) : [];
  const decoded = new Map();
  const START = { yaw: 0.66, pitch: 0.38, zoom: 1 };
  const CAMERA = 4; // radii of the cloud

  function cloud(number) {
    if (!decoded.has(number)) {
      const bytes = Uint8Array.from(
        atob(encoded[number]), (character) => character.charCodeAt(0));
      const count = bytes.length / 9;
      const view = new DataView(bytes.buffer);
      const xyz = new Float32Array(3 * count);
      for (let i = 0; i < 3 * count; i++) {
        xyz[i] = view.getInt16(2 * i, true) / 32767;
      }
      decoded.set(number, { count, xyz, rgb: bytes.subarray(6 * count) });
    }
    return decoded.get(number);
  }

  function draw(canvas, { count, xyz, rgb }, { yaw, pitch, zoom }) {
    const box = canvas.getBoundingClientRect();
    const ratio = Math.min(devicePixelRatio || 1, 2);
    const width = Math.max(1, Math.round(box.width * ratio));
    const height = Math.max(1, Math.round(box.height * ratio));
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    const [sy, cy] = [Math.sin(yaw), Math.cos(yaw)];
    const [sp, cp] = [Math.sin(pitch), Math.cos(pitch)];
    const unit = Math.min(width, height) * 0.455 * zoom;
    const points = new Float32Array(3 * count);
    for (let i = 0; i < count; i++) {
      const [x, y, z] = xyz.subarray(3 * i, 3 * i + 3);
      const turned = -sy * x + cy * z;
      points[3 * i] = cy * x + sy * z;
      points[3 * i + 1] = cp * y - sp * turned;
      points[3 * i + 2] = sp * y + cp * turned;
    }
    const order = Uint32Array.from({ length: count }, (_, i) => i);
    order.sort((a, b) => points[3 * a + 2] - points[3 * b + 2]);
    const size = unit * Math.min(0.16, 0.9 / Math.sqrt(count));
    const edge = Math.max(0.6, 0.14 * size);
    for (const i of order) {
      const [x, y, z] = points.subarray(3 * i, 3 * i + 3);
      const near = CAMERA / (CAMERA - z);
      const light = 0.74 + 0.26 * (z + 1) / 2; // what is far is darker
      const [r, g, b] = rgb.subarray(3 * i, 3 * i + 3);
      const left = width / 2 + unit * near * x;
      const top = height / 2 - unit * near * y;
      // A rim darker than the disc (lighter where all is dark) parts surfaces.
      const rim = r + g + b < 150 ? 70 : -40;
      context.fillStyle =
        `rgb(${r * light + rim} ${g * light + rim} ${b * light + rim})`;
      context.beginPath();
      context.arc(left, top, size * near + edge, 0, 2 * Math.PI);
      context.fill();
      context.fillStyle = `rgb(${r * light} ${g * light} ${b * light})`;
      context.beginPath();
      context.arc(left, top, size * near, 0, 2 * Math.PI);
      context.fill();
    }
  }

  const tiles = [...document.querySelectorAll(".tile")];
  const drawTile = (tile) => {
    const still = tile.querySelector("canvas");
    draw(still, cloud(+tile.dataset.cloud), START);
    // As pixels: else a print has every point as two vector discs, 50 MB.
    const context = still.getContext("2d");
    context.putImageData(
      context.getImageData(0, 0, still.width, still.height), 0, 0);
  };
  const seen = new Set();
  const observer = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting || seen.has(target)) continue;
      seen.add(target);
      drawTile(target);
    }
  }, { rootMargin: "400px" });
  tiles.forEach((tile) => observer.observe(tile));
  let waiting;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => seen.forEach(drawTile), 150);
  });
  addEventListener("beforeprint", () => tiles.forEach(drawTile));

  const dialog = document.getElementById("viewer");
  const canvas = dialog.querySelector("canvas");
  const turn = dialog.querySelector("[data-act=turn]");
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  let shown = null;
  let view = { ...START };
  let turning = false;
  let frame = 0;
  let before = 0;

  const paint = () => {
    draw(canvas, shown, view);
    canvas.dataset.view = [view.yaw, view.pitch, view.zoom]
      .map((value) => value.toFixed(3)).join(" ");
  };
  const change = (yaw, pitch, zoom = 1) => {
    view.yaw += yaw;
    view.pitch = Math.max(-1.5, Math.min(1.5, view.pitch + pitch));
    view.zoom = Math.max(0.4, Math.min(6, view.zoom * zoom));
    paint();
  };
  const step = (now) => {
    if (!turning || !dialog.open) return;
    change(Math.min(now - before, 100) * 0.0006, 0);
    before = now;
    frame = requestAnimationFrame(step);
  };
  const setTurning = (on) => {
    turning = on;
    turn.setAttribute("aria-pressed", on);
    cancelAnimationFrame(frame);
    before = performance.now();
    if (on) frame = requestAnimationFrame(step);
  };
  const acts = {
    left: () => change(-0.2, 0),
    right: () => change(0.2, 0),
    up: () => change(0, -0.15),
    down: () => change(0, 0.15),
    in: () => change(0, 0, 1.2),
    out: () => change(0, 0, 1 / 1.2),
    reset: () => { view = { ...START }; paint(); },
    turn: () => setTurning(!turning),
    close: () => dialog.close(),
  };
  const keys = {
    ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down",
    "+": "in", "=": "in", "-": "out", 0: "reset", " ": "turn",
  };
  for (const tile of tiles) {
    tile.addEventListener("click", () => {
      shown = cloud(+tile.dataset.cloud);
      view = { ...START };
      dialog.querySelector("h2").textContent = tile.dataset.title;
      dialog.showModal();
      paint();
      canvas.focus();
      setTurning(!still.matches);
    });
  }
  for (const button of dialog.querySelectorAll("[data-act]")) {
    button.addEventListener("click", () => {
      const act = button.dataset.act;
      if (act !== "turn") setTurning(false);
      acts[act]();
    });
  }
  dialog.addEventListener("keydown", (event) => {
    const act = keys[event.key];
    if (!act || event.target.tagName === "BUTTON" && event.key === " ") return;
    event.preventDefault();
    if (act !== "turn") setTurning(false);
    acts[act]();
  });
  dialog.addEventListener("close", () => setTurning(false));

  // One pointer turns, two zoom.
  const pointers = new Map();
  const spread = () => {
    const [a, b] = [...pointers.values()];
    return Math.hypot(a[0] - b[0], a[1] - b[1]);
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    setTurning(false);
  });
  canvas.addEventListener("pointermove", (event) => {
    const last = pointers.get(event.pointerId);
    if (!last) return;
    const wide = pointers.size === 2 ? spread() : 0;
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    if (wide) {
      change(0, 0, spread() / wide);
    } else {
      change((event.clientX - last[0]) * 0.01, (event.clientY - last[1]) * 0.01);
    }
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, (event) => pointers.delete(event.pointerId));
  }
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    change(0, 0, Math.exp(-0.0015 * event.deltaY));
  }, { passive: false });
  addEventListener("resize", () => { if (dialog.open) paint(); });
})();
