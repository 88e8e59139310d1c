// Draws the figures of a report. Each plot names a JSON script with {variants: [{data, layout, narrow}], config}.
(() => {
  "use strict";
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const dark = read("dark-colours");
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 640px)");
  const plots = [...document.querySelectorAll(".plot[data-figure]")];
  let printing = false;

  const recolour = (value) => {
    if (typeof value === "string") return dark[value] || value;
    if (Array.isArray(value)) return value.map(recolour);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, inside]) => [name, recolour(inside)]));
    }
    return value;
  };

  const assign = (layout, path, value) => {
    const names = path.split(".");
    const last = names.pop();
    let place = layout;
    for (const name of names) place = place[name] = place[name] || {};
    place[last] = value;
  };

  const draw = (plot) => {
    const figure = read(plot.dataset.figure);
    let { data, layout, narrow: changes } = figure.variants[Number(plot.dataset.variant || 0)];
    if (prefersDark.matches && !printing) [data, layout] = [recolour(data), recolour(layout)];
    if (narrow.matches) for (const [path, value] of Object.entries(changes)) assign(layout, path, value);
    plot.style.minHeight = layout.height + "px";
    const config = narrow.matches ? { ...figure.config, displayModeBar: false } : figure.config; // fingers scroll
    window.Plotly.react(plot, data, layout, config);
  };
  const drawAll = () => plots.forEach(draw);

  if (!window.Plotly) {
    for (const plot of plots) {
      plot.classList.add("absent");
      plot.textContent = "This figure needs the file plotly.min.js beside this page. The tables hold the same numbers.";
    }
    return;
  }
  drawAll();
  // Not plotly's own `responsive`, which misses a plot whose box changes while the window does not.
  const sizes = new ResizeObserver((changes) => {
    for (const { target } of changes) if (target.offsetWidth) window.Plotly.Plots.resize(target);
  });
  plots.forEach((plot) => sizes.observe(plot));
  for (const choice of document.querySelectorAll("select[data-plot]")) {
    const plot = document.getElementById(choice.dataset.plot);
    const choose = () => {
      plot.dataset.variant = choice.value;
      plot.setAttribute("aria-label", choice.selectedOptions[0].dataset.label);
      draw(plot);
    };
    choice.addEventListener("change", choose);
    if (choice.value !== (plot.dataset.variant || "0")) choose(); // a browser may restore an earlier choice
  }
  prefersDark.addEventListener("change", drawAll);
  narrow.addEventListener("change", drawAll);
  for (const [name, value] of [["beforeprint", true], ["afterprint", false]]) {
    window.addEventListener(name, () => {
      printing = value;
      for (const details of document.querySelectorAll("details.printed")) details.open = value || details.open;
      drawAll();
    });
  }
})();
