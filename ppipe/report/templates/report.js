"use strict";
// Sorts and copies tables, and draws the Gantt charts. Plain functions over the page; texts go in as textContent.

const said = document.getElementById("said");

// ---- tables

function sortBy(table, column, button) {
  const heading = button.closest("th");
  const down = heading.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const key = (row) => {
    const cell = row.cells[column];
    return cell.dataset.v === undefined ? cell.textContent.trim() : Number(cell.dataset.v);
  };
  const compare = (a, b) => {
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1; // numbers first, then what has none
    return typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
  };
  const rows = [...table.tBodies[0].rows].map((row) => [key(row), row]);
  rows.sort((a, b) => (down ? compare(b[0], a[0]) : compare(a[0], b[0])));
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

function csvOf(table) {
  const quote = (cell) => {
    let text = cell.textContent.trim();
    if (cell.dataset.v !== undefined) text = cell.dataset.v;
    else if (/^[=+@\t-]/.test(text)) text = "'" + text; // a spreadsheet would compute it
    return /[",\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
  };
  return [...table.rows].map((row) => [...row.cells].map(quote).join(",")).join("\n") + "\n";
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Pages that are opened from a file may have no clipboard of that kind.
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

for (const table of document.querySelectorAll("table")) {
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    const button = cell.querySelector("button");
    button.addEventListener("click", () => sortBy(table, column, button));
  });
  const button = table.caption.querySelector(".csv");
  button.addEventListener("click", async () => {
    const text = csvOf(table);
    table.dataset.csv = text;
    await copy(text);
    button.textContent = "Copied";
    said.textContent = `${table.tBodies[0].rows.length} rows copied`;
    setTimeout(() => { button.textContent = "Copy as CSV"; }, 1500);
  });
}

// ---- Gantt charts. Orders of the lists: ppipe/report/gantt.py

const SVG = "http://www.w3.org/2000/svg";
const ROW = 16, NAMES = 150, TOP = 22, DROPS = 18, MOST_BARS = 4000;
const [ID, ATTEMPT, PIPELINE, DEADLINE, SENT, ANSWERED, FRAMES, HOPS] = [0, 1, 2, 3, 4, 5, 6, 7];
const [WORKER, T0, T1, READY, START, END] = [0, 1, 2, 3, 4, 5];
const [FRAME, ARRIVED, ENDED, DROPPED, REASON, BATCH] = [0, 1, 2, 3, 4, 5];
const ms = (us) => (us / 1000).toLocaleString("en", { maximumFractionDigits: 2, minimumFractionDigits: 2 }) + " ms";

function element(name, attributes = {}, text) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function shape(name, attributes, hint) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (hint) {
    const title = document.createElementNS(SVG, "title");
    title.textContent = hint;
    made.append(title);
  }
  return made;
}

class Gantt {
  constructor(root, charts) {
    this.root = root;
    this.charts = charts;
    this.model = this.pick("model", charts.map((chart, place) => [place, chart.model]));
    this.frame = this.field("frame", "number", "its number");
    this.worker = this.field("worker", "search", "part of a name");
    this.reason = this.pick("drops", []);
    const tools = element("div", { class: "tools" });
    for (const one of [this.model, this.frame, this.worker, this.reason]) tools.append(one.parentElement);
    const buttons = [["+", "Zoom in", () => this.zoom(0.5)], ["−", "Zoom out", () => this.zoom(2)],
      ["←", "Earlier", () => this.move(-0.5)], ["→", "Later", () => this.move(0.5)], ["All", "Show all", () => this.all()]];
    for (const [text, label, act] of buttons) {
      const button = element("button", { type: "button", "aria-label": label, title: label }, text);
      button.addEventListener("click", act);
      tools.append(button);
    }
    this.where = element("p", { class: "note" });
    this.box = element("div", { class: "chart", tabindex: "0", role: "region", "aria-label": "Gantt chart: arrow keys move, + and - zoom" });
    this.detail = element("div", { class: "detail", role: "status", "aria-live": "polite" }, "Click a bar or a cross.");
    root.append(tools, this.where, this.box, this.detail);
    this.listen();
    this.choose();
  }

  labelled(name, control) {
    const label = element("label", {}, name);
    label.append(control);
    return control;
  }

  field(name, type, hint) {
    return this.labelled(name, element("input", { type, placeholder: hint, name }));
  }

  pick(name, options) {
    const select = this.labelled(name, element("select", { name }));
    for (const [value, text] of options) select.append(element("option", { value }, text));
    return select;
  }

  listen() {
    this.model.addEventListener("change", () => this.choose());
    this.worker.addEventListener("input", () => this.draw());
    this.reason.addEventListener("change", () => this.draw());
    this.frame.addEventListener("change", () => this.goto(Number(this.frame.value)));
    this.box.addEventListener("keydown", (event) => {
      const acts = { ArrowLeft: () => this.move(-0.25), ArrowRight: () => this.move(0.25), "+": () => this.zoom(0.5), "-": () => this.zoom(2) };
      if (acts[event.key]) { event.preventDefault(); acts[event.key](); }
    });
    this.box.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.shiftKey && document.activeElement !== this.box) return; // the page scrolls
      event.preventDefault();
      this.zoom(event.deltaY > 0 ? 1.25 : 0.8, (event.offsetX - NAMES) / (this.box.clientWidth - NAMES));
    }, { passive: false });
    let from = null;
    this.box.addEventListener("pointerdown", (event) => { from = event.clientX; });
    this.box.addEventListener("pointermove", (event) => {
      if (from === null || !event.buttons || Math.abs(event.clientX - from) < 8) return;
      this.move((from - event.clientX) / (this.box.clientWidth - NAMES));
      from = event.clientX;
    });
    this.box.addEventListener("pointerup", () => { from = null; });
    this.box.addEventListener("click", (event) => {
      const hit = event.target.closest("[data-batch],[data-frame]");
      if (!hit) return;
      this.chosen = hit.dataset.batch === undefined ? null : Number(hit.dataset.batch);
      if (this.chosen !== null) this.showBatch(this.chart.batches[this.chosen]);
      else this.showFrames([this.frames.get(Number(hit.dataset.frame))]);
      this.draw();
    });
  }

  choose() {
    this.chart = this.charts[Number(this.model.value)];
    this.frames = new Map(this.chart.frames.map((frame) => [frame[FRAME], frame]));
    this.chosen = null;
    this.reason.replaceChildren(element("option", { value: "" }, "all"), element("option", { value: "none" }, "none"),
      ...this.chart.reasons.map((reason, place) => element("option", { value: place }, reason)));
    this.from = this.chart.window_us[0];
    this.to = Math.min(this.chart.window_us[1], this.from + 4 * this.chart.slo_us);
    this.draw();
  }

  span() { return this.to - this.from; }

  all() { [this.from, this.to] = this.chart.window_us; this.draw(); }

  move(share) { const by = share * this.span(); this.show(this.from + by, this.to + by); }

  zoom(factor, at = 0.5) {
    const middle = this.from + this.span() * Math.min(1, Math.max(0, at)), span = Math.max(500, this.span() * factor);
    this.show(middle - span * at, middle + span * (1 - at));
  }

  show(from, to) {
    const [first, last] = this.chart.window_us;
    const span = Math.min(to - from, last - first + 2 * this.chart.slo_us);
    this.from = Math.max(first, Math.min(from, last - span / 4));
    this.to = this.from + span;
    this.draw();
  }

  goto(id) {
    const frame = this.frames.get(id);
    if (!frame) { this.detail.textContent = `Frame ${id} is not in the stretch of time that this page holds.`; return; }
    this.chosen = frame[BATCH] >= 0 ? frame[BATCH] : null;
    this.showFrames([frame]);
    this.show(frame[ARRIVED] - this.chart.slo_us / 4, frame[ARRIVED] + 1.5 * this.chart.slo_us);
  }

  draw() {
    const chart = this.chart, width = Math.max(360, this.box.clientWidth - 4);
    const scale = (width - NAMES) / this.span(), x = (us) => NAMES + (us - this.from) * scale;
    const wanted = this.worker.value.trim().toLowerCase();
    const rows = new Map();
    chart.workers.forEach((name, place) => { if (name.toLowerCase().includes(wanted)) rows.set(place, rows.size); });
    const height = TOP + DROPS + ROW * rows.size + 6;
    const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${chart.model}: batches on ${rows.size} workers` });
    this.axis(svg, x, width, height);
    for (const [place, row] of rows) {
      const down = TOP + DROPS + row * ROW;
      if (row % 2 === 0) svg.append(shape("rect", { x: 0, y: down, width, height: ROW, class: "lane0" }));
      const name = chart.workers[place], short = name.length > 24 ? "…" + name.slice(-23) : name;
      const label = shape("text", { x: NAMES - 6, y: down + 12, class: "small", "text-anchor": "end" });
      label.textContent = short;
      svg.append(label);
    }
    const bars = this.bars(svg, rows, x), drops = this.drops(svg, x);
    const whole = `${ms(chart.window_us[0])} to ${ms(chart.window_us[1])} of ${ms(chart.whole_us)}`;
    this.where.textContent = `${ms(this.from)} to ${ms(this.to)}: ${bars} bars, ${drops} drops` +
      (bars >= MOST_BARS ? "; zoom in to see all" : "") + `. The page holds ${whole}, where most was late or dropped.` +
      (chart.note ? ` The log: ${chart.note}.` : "");
    this.box.replaceChildren(svg);
  }

  axis(svg, x, width, height) {
    const raw = this.span() / 6, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= raw);
    for (let at = Math.ceil(this.from / step) * step; at < this.to; at += step) {
      svg.append(shape("path", { d: `M${x(at)} ${TOP - 4}V${height}`, class: "grid" }));
      const label = shape("text", { x: x(at), y: 13, class: "small", "text-anchor": "middle" });
      label.textContent = (at / 1000).toLocaleString("en", { maximumFractionDigits: 3 });
      svg.append(label);
    }
    const label = shape("text", { x: 4, y: 13, class: "small" });
    label.textContent = "ms; below: drops";
    svg.append(label);
  }

  bars(svg, rows, x) {
    let count = 0;
    this.chart.batches.forEach((batch, place) => {
      for (const hop of batch[HOPS]) {
        if (count >= MOST_BARS || !rows.has(hop[WORKER]) || hop[END] < this.from || hop[T0] > this.to) continue;
        const down = TOP + DROPS + rows.get(hop[WORKER]) * ROW, left = Math.max(NAMES, x(hop[START])), right = x(hop[END]);
        const late = batch[ANSWERED] > batch[DEADLINE];
        const hint = `batch ${batch[ID]}: ${batch[FRAMES].length} frames, ${ms(hop[START])} to ${ms(hop[END])}`;
        if (hop[T1] > hop[T0] && x(hop[T1]) > NAMES) {
          const begin = Math.max(NAMES, x(hop[T0]));
          svg.append(shape("rect", { x: begin, y: down + 12, width: Math.max(0.5, x(hop[T1]) - begin), height: 3, class: "way" }, "transfer, " + hint));
        }
        if (right <= NAMES) continue;
        svg.append(shape("rect", { x: left, y: down + 1.5, width: Math.max(1, right - left), height: ROW - 5,
          class: `bar c${batch[ID] % 8}${late ? " late" : ""}${place === this.chosen ? " chosen" : ""}`, "data-batch": place }, hint));
        count += 1;
      }
    });
    return count;
  }

  drops(svg, x) {
    let count = 0;
    const wanted = this.reason.value;
    if (wanted === "none") return 0;
    for (const frame of this.chart.frames) {
      if (frame[DROPPED] < this.from || frame[DROPPED] > this.to || (wanted !== "" && frame[REASON] !== Number(wanted))) continue;
      if ((count += 1) > MOST_BARS) break;
      const at = x(frame[DROPPED]), reason = this.chart.reasons[frame[REASON]];
      svg.append(shape("path", { d: `M${at - 4} ${TOP + 2}l8 8m0 -8l-8 8`, class: "drop", "data-frame": frame[FRAME] }, `frame ${frame[FRAME]}: ${reason}`));
    }
    return count;
  }

  showBatch(batch) {
    this.detail.replaceChildren(element("strong", {}, `Batch ${batch[ID]}`),
      element("span", {}, `, attempt ${batch[ATTEMPT]}, pipeline ${batch[PIPELINE]}, sent at ${ms(batch[SENT])}, answered at ${ms(batch[ANSWERED])}, deadline ${ms(batch[DEADLINE])}`));
    const list = element("ul");
    batch[HOPS].forEach((hop, stage) => list.append(element("li", {}, `stage ${stage + 1} on ${this.chart.workers[hop[WORKER]]}: ` +
      `there at ${ms(hop[T1])}, ready at ${ms(hop[READY])}, runs ${ms(hop[START])} to ${ms(hop[END])}`)));
    this.detail.append(list);
    this.append(batch[FRAMES].map((id) => this.frames.get(id) || [id, -1, -1, -1, -1, -1]));
  }

  showFrames(frames) { this.detail.replaceChildren(); this.append(frames); }

  append(frames) {
    const list = element("ul", { class: "frames" });
    for (const frame of frames) {
      let text = `Frame ${frame[FRAME]}`;
      if (frame[ARRIVED] < 0) text += ": came before the stretch of time in this page";
      else {
        text += `: arrived at ${ms(frame[ARRIVED])}`;
        if (frame[ENDED] >= 0) text += `, answered after ${ms(frame[ENDED] - frame[ARRIVED])} of ${ms(this.chart.slo_us)}`;
        if (frame[DROPPED] >= 0) text += `, dropped at ${ms(frame[DROPPED])}: ${this.chart.reasons[frame[REASON]]}`;
      }
      list.append(element("li", {}, text));
    }
    this.detail.append(list);
  }
}

const charts = JSON.parse(document.getElementById("charts").textContent);
const drawn = [...document.querySelectorAll(".gantt")].map((root) =>
  new Gantt(root, root.dataset.charts.split(",").map((place) => charts[Number(place)])));
let pending = 0;
addEventListener("resize", () => {
  cancelAnimationFrame(pending);
  pending = requestAnimationFrame(() => drawn.forEach((gantt) => gantt.draw()));
});
