"use strict";
// Theme, values under the pointer in charts, names of dots on maps.
(() => {
  const root = document.documentElement;
  const toggle = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () =>
    root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
  const show = () => {
    toggle.setAttribute("aria-pressed", isDark());
    toggle.textContent = isDark() ? "Light" : "Dark";
    toggle.setAttribute(
      "aria-label", isDark() ? "Use light colours" : "Use dark colours");
    document.dispatchEvent(new Event("themechange"));
  };
  toggle.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    show();
  });
  system.addEventListener("change", show);
  show();
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) {
      details.open = true;
    }
  });

  for (const figure of document.querySelectorAll(".chart")) {
    const svg = figure.querySelector("svg");
    const cursor = svg.querySelector(".cursor");
    const cells = [...figure.querySelectorAll(".legend b")];
    const at = figure.querySelector(".at");
    const rest = [at.textContent, cells.map((cell) => cell.textContent)];
    const percent = "percent" in figure.dataset;
    const { left, right, last } = svg.dataset;
    const read = (text) => text.split(",").map(Number);
    const curves = [...svg.querySelectorAll(".curve")].map((path) => ({
      steps: read(path.dataset.steps),
      values: read(path.dataset.values),
    }));
    const grid = [...new Set(curves.flatMap((curve) => curve.steps))];
    grid.sort((a, b) => a - b);
    let here = grid.length;
    const nearest = (steps, step) => {
      let best = 0;
      steps.forEach((value, i) => {
        if (Math.abs(value - step) < Math.abs(steps[best] - step)) best = i;
      });
      return best;
    };
    const point = (index) => {
      here = Math.max(0, Math.min(index, grid.length - 1));
      const step = grid[here];
      const x = +left + (step / last) * (right - left);
      cursor.setAttribute("x1", x);
      cursor.setAttribute("x2", x);
      cursor.style.visibility = "visible";
      at.textContent = `at step ${step.toLocaleString("en")}`;
      curves.forEach((curve, i) => {
        const value = curve.values[nearest(curve.steps, step)];
        const ended = step > curve.steps.at(-1);
        cells[i].textContent = ended ? "–" : percent
          ? `${(100 * value).toFixed(1)}%`
          : String(+value.toPrecision(4));
      });
    };
    const leave = () => {
      cursor.style.visibility = "hidden";
      at.textContent = rest[0];
      cells.forEach((cell, i) => { cell.textContent = rest[1][i]; });
      here = grid.length;
    };
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
      point(nearest(grid, ((x - left) / (right - left)) * last));
    });
    svg.addEventListener("pointerleave", leave);
    svg.addEventListener("blur", leave);
    svg.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!move) return;
      event.preventDefault();
      at.setAttribute("aria-live", "polite");
      point(here + move);
    });
  }

  for (const figure of document.querySelectorAll(".map")) {
    const svg = figure.querySelector("svg");
    const tip = figure.querySelector(".tip");
    const picker = figure.querySelector("select");
    const paths = [...svg.querySelectorAll(".dots")];
    const dots = paths.flatMap((path) =>
      [...path.getAttribute("d").matchAll(/M([\d.]+) ([\d.]+)/g)].map(
        ([, x, y]) => [+x, +y, path.dataset.name]));
    const tell = (event) => {
      const box = svg.getBoundingClientRect();
      const scale = svg.viewBox.baseVal.width / box.width;
      const x = (event.clientX - box.left) * scale;
      const y = (event.clientY - box.top) * scale;
      let best = null;
      let far = 18 * scale;
      for (const dot of dots) {
        const distance = Math.hypot(dot[0] - x, dot[1] - y);
        if (distance < far) [best, far] = [dot, distance];
      }
      tip.hidden = !best;
      if (!best) return;
      tip.textContent = best[2];
      const half = tip.offsetWidth / 2;
      const left = Math.max(half, Math.min(best[0] / scale, box.width - half));
      tip.style.left = `${left}px`;
      tip.style.top = `${Math.max(best[1] / scale, 40)}px`;
    };
    svg.addEventListener("pointermove", tell);
    svg.addEventListener("pointerdown", tell);
    svg.addEventListener("pointerleave", () => { tip.hidden = true; });
    picker.addEventListener("change", () => {
      svg.classList.toggle("picked", picker.value !== "");
      for (const path of paths) {
        const shown = path.dataset.name === picker.value;
        path.classList.toggle("shown", shown);
        if (shown) svg.append(path); // above the others
      }
    });
  }
})();
