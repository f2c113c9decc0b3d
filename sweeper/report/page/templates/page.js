"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const data = JSON.parse(document.getElementById("page-data").textContent);
  const byId = (id) => document.getElementById(id);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const element = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };
  const drawn = (tag, attributes = {}, text = "") => {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text) made.textContent = text;
    return made;
  };
  for (const part of all("[data-needs-script]")) part.hidden = false;
  addEventListener("beforeprint", () => all("details").forEach((part) => (part.open = true)));

  // Tables: a header sorts its column. What is missing stays last, equals keep their order.
  const collator = new Intl.Collator("en", { numeric: true });
  function sortBy(table, head, ascending) {
    const body = table.tBodies[0], column = head.cellIndex, isNumber = head.dataset.sort === "number";
    const keyed = [...body.rows].map((row) => {
      const cell = row.cells[column], text = cell.dataset.value ?? cell.textContent.trim();
      return [isNumber && text !== "" ? Number(text) : text, row];
    });
    keyed.sort(([a], [b]) => {
      if (a === "" || b === "") return (a === "") - (b === "");
      const order = isNumber ? a - b : collator.compare(a, b);
      return ascending ? order : -order;
    });
    body.append(...keyed.map(([, row]) => row));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  }
  for (const table of all("table.sortable")) {
    for (const head of table.tHead.rows[0].cells) {
      const button = element("span", { role: "button", tabIndex: 0 }, ...head.childNodes); // a <button> isn't repeated in print
      head.append(button);
      const sort = () => sortBy(table, head, head.getAttribute("aria-sort") !== "ascending");
      button.addEventListener("click", sort);
      button.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        sort();
      });
    }
  }

  const filter = byId("filter");
  let tellFilter = () => {};
  if (filter) {
    const rows = [...byId("trials").tBodies[0].rows];
    const texts = rows.map((row) => [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase());
    tellFilter = () => {
      const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row, i) => {
        row.hidden = !words.every((word) => texts[i].includes(word));
        shown += !row.hidden;
      });
      byId("filter-count").textContent = words.length ? `${shown} of ${rows.length} trials` : "";
    };
    filter.addEventListener("input", tellFilter);
    tellFilter(); // a browser that goes back keeps what was typed
  }

  // The card of a point, while it is under the pointer or has the focus.
  const card = element("div", { id: "card", hidden: true });
  card.setAttribute("role", "tooltip");
  document.body.append(card);
  const hint = `${matchMedia("(pointer: coarse)").matches ? "Touch again" : "Click or Enter"}: its curves and trials`;
  let carded = null;
  function showCard(point) {
    const { title, rows } = data.points[point.dataset.point];
    const list = element("dl");
    for (const [name, value] of rows) list.append(element("dt", {}, name), element("dd", {}, value));
    card.replaceChildren(element("strong", {}, title), list, element("p", {}, hint));
    card.hidden = false;
    carded = point;
    const at = point.getBoundingClientRect(), own = card.getBoundingClientRect(), gap = 8;
    const beside = at.right + gap + own.width <= innerWidth ? at.right + gap : at.left - gap - own.width;
    const left = Math.min(Math.max(gap, beside), document.documentElement.clientWidth - own.width - gap);
    const above = at.top - own.height - gap;
    card.style.left = `${left}px`;
    card.style.top = `${above >= gap ? above : Math.min(at.bottom + gap, innerHeight - own.height - gap)}px`;
  }
  function hideCard() {
    card.hidden = true;
    carded = null;
  }
  const pointOf = (event) => event.target.closest?.("[data-point]");
  for (const point of all("[data-point]")) {
    const title = point.querySelector("title");
    point.setAttribute("aria-label", title.textContent);
    title.remove(); // the card says more
  }
  document.addEventListener("pointerover", (event) => pointOf(event) && showCard(pointOf(event)));
  document.addEventListener("pointerout", (event) => {
    const leaves = carded && pointOf(event) === carded && !carded.contains(event.relatedTarget);
    if (leaves && event.pointerType !== "touch") hideCard();
  });
  document.addEventListener("focusin", (event) => pointOf(event)?.matches(":focus-visible") && showCard(pointOf(event)));
  document.addEventListener("focusout", (event) => pointOf(event) === carded && hideCard());
  const follow = () => carded && (carded === document.activeElement ? showCard(carded) : hideCard());
  addEventListener("scroll", follow, { passive: true, capture: true });

  // Within a figure one point can be tabbed to; arrows go on from there.
  for (const figure of new Set(all("[data-point]").map((point) => point.closest("svg")))) {
    const points = all("[data-point]", figure), step = Number(figure.dataset.step ?? 1);
    points.forEach((point, i) => point.setAttribute("tabindex", i ? -1 : 0));
    figure.addEventListener("focusin", (event) => {
      for (const point of points) point.setAttribute("tabindex", point === pointOf(event) ? 0 : -1);
    });
    figure.addEventListener("keydown", (event) => {
      const moves = { ArrowRight: step, ArrowDown: step, ArrowLeft: -step, ArrowUp: -step };
      if (event.key === "Escape") hideCard();
      if (!(event.key in moves)) return;
      event.preventDefault();
      points[points.indexOf(pointOf(event)) + moves[event.key]]?.focus();
    });
  }

  // Curves: those of one config, against another's where one is chosen, before all others in grey.
  const { curves, scale } = data, of = byId("curve-of"), against = byId("curve-against");
  const chart = byId("chart");
  function draw(seed = null) {
    const width = Math.max(280, Math.min(chart.clientWidth, 1100)), height = Math.round(Math.min(380, 0.62 * width));
    const left = 46, right = 12, top = 26, bottom = 36;
    const x = (tokens) => left + ((width - left - right) * tokens) / scale.end;
    const y = (loss) => top + ((height - top - bottom) * (scale.high - loss)) / (scale.high - scale.low || 1);
    const figure = drawn("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img" });
    figure.setAttribute("aria-label", `Loss curves of ${curves[of.value].label}`);
    const clip = drawn("clipPath", { id: "plot" });
    clip.append(drawn("rect", { x: left, y: top - 4, width: width - left - right + 4, height: height - top - bottom + 8 }));
    figure.append(clip);
    for (const [value, text] of scale.y_ticks) {
      figure.append(drawn("line", { x1: left, x2: width - right, y1: y(value), y2: y(value) }));
      figure.append(drawn("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, text));
    }
    for (const [value, text] of scale.x_ticks) {
      figure.append(drawn("text", { x: x(value), y: height - bottom + 16, "text-anchor": value ? "middle" : "start" }, text));
    }
    figure.append(drawn("text", { x: width - right, y: height - 3, "text-anchor": "end" }, "tokens"));
    figure.append(drawn("text", { x: 2, y: 12 }, "loss, nats/token"));
    const lines = drawn("g", { "clip-path": "url(#plot)" });
    figure.append(lines);
    const path = (trial) => {
      const tokens = data.grids[trial.grid];
      return trial.losses.map((loss, i) => (loss === null ? "" : `${x(tokens[i]).toFixed(1)},${y(loss).toFixed(1)}`)).join(" ");
    };
    const trace = (config, kind) => {
      const trials = kind === "other" ? curves[config].trials.slice(0, 1) : curves[config].trials;
      for (const trial of trials) {
        const line = drawn("polyline", { points: path(trial), class: kind });
        if (trial.status !== "ok") line.classList.add("broken");
        if (kind === "own" && trial.seed === seed) line.classList.add("chosen");
        lines.append(line);
        if (kind === "other") continue;
        line.append(drawn("title", {}, `${curves[config].label} seed ${trial.seed}: ${trial.end}`));
        if (trial.val_loss !== null) {
          const end = drawn("circle", { cx: x(trial.tokens), cy: y(trial.val_loss), r: 3.5, class: kind });
          end.append(drawn("title", {}, `${curves[config].label} seed ${trial.seed}: ${trial.end}`));
          lines.append(end);
        }
      }
    };
    for (const config of Object.keys(curves)) if (config !== of.value && config !== against.value) trace(config, "other");
    if (against.value) trace(against.value, "against");
    trace(of.value, "own");
    byId("key-of").textContent = curves[of.value].label;
    byId("key-against").hidden = !against.value;
    byId("key-against").querySelector("strong").textContent = against.value ? curves[against.value].label : "";
    chart.replaceChildren(figure);
  }
  function mark(config) {
    for (const marked of all(".marked")) {
      marked.classList.remove("marked");
      marked.removeAttribute("aria-current");
    }
    for (const one of all(`tr[data-config="${config}"], a[data-config="${config}"][data-point]`)) {
      one.classList.add("marked");
      one.setAttribute("aria-current", "true");
    }
  }
  function show(config, seed = null) {
    of.value = config;
    if (against.value === config) against.value = "";
    const links = all(`#trials tr[data-config="${config}"]`).map((row) => {
      const link = element("a", { href: `#${row.id}` }, row.dataset.name);
      link.addEventListener("click", (event) => {
        event.preventDefault();
        if (row.hidden) filter.value = "";
        tellFilter();
        mark(config);
        goTo(row, row.querySelector("a"));
      });
      return link;
    });
    byId("curve-rows").replaceChildren(...links.flatMap((link, i) => (i ? [" · ", link] : ["In the table of trials: ", link])));
    draw(seed);
  }
  function goTo(target, focused) {
    target.scrollIntoView({ block: "center", behavior: matchMedia("(prefers-reduced-motion)").matches ? "auto" : "smooth" });
    focused.focus({ preventScroll: true });
  }
  if (of) {
    let touched = null, drawnAt = 0;
    of.addEventListener("change", () => {
      mark(of.value);
      show(of.value);
    });
    against.addEventListener("change", () => show(of.value));
    document.addEventListener("click", (event) => {
      const link = event.target.closest?.("a[data-config]");
      if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
      const { config, seed } = link.dataset;
      event.preventDefault();
      if (event.pointerType === "touch" && link.dataset.point && touched !== link) {
        touched = link; // the first touch shows the card, the second goes on
        return;
      }
      touched = null;
      hideCard();
      mark(config);
      if (!(config in curves)) return goTo(byId("trials").querySelector(".marked"), link);
      show(config, seed === undefined ? null : Number(seed));
      goTo(byId("viewer"), byId("viewer"));
    });
    new ResizeObserver(() => {
      if (chart.clientWidth === drawnAt) return;
      drawnAt = chart.clientWidth;
      draw();
    }).observe(chart);
    show(of.value);
  }
})();
