// Scripts of the page: the session, uploads, and images that are clicked, boxed and painted on.
"use strict";

window.counterview = (() => {
  let token = null;
  let trouble = null;
  const waiting = [];

  // ---------------------------------------------------------------------------------------- order

  // Requests may overtake one another: the server handles events in the order of these numbers.
  let events = 0;
  const send = window.fetch.bind(window);
  window.fetch = (address, options) => {
    const path = typeof address === "string" ? address : address.url || String(address);
    if (!/\/queue\/join(\?|$)/.test(path) || !options) return send(address, options);
    const headers = new Headers(options.headers || {});
    events += 1;
    headers.set("X-Counterview-Event", String(events));
    return send(address, { ...options, headers });
  };

  // ---------------------------------------------------------------------------------------- session

  function begin(text) {
    if (!text) return;
    const value = JSON.parse(text);
    token = value.token || null;
    trouble = value.error || null;
    document.documentElement.dataset.session = token ? "ready" : "refused";
    while (waiting.length) waiting.shift()();
  }

  function withSession() {
    if (token || trouble) return Promise.resolve();
    return new Promise((resolve) => waiting.push(resolve));
  }

  // Sends a file; resolves to its id, or throws an error whose message is for the visitor.
  async function upload(file, kind, onProgress) {
    await withSession();
    if (!token) throw new Error(trouble || "The session ended. Load the page again.");
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      request.open("POST", `upload/${token}?kind=${kind}&name=${encodeURIComponent(file.name)}`);
      request.responseType = "json";
      request.upload.onprogress = (event) => {
        if (event.lengthComputable && onProgress) onProgress(event.loaded / event.total);
      };
      request.onload = () => {
        const answer = request.response || {};
        if (answer.id) resolve(answer.id);
        else reject(new Error(answer.error || `the server answered ${request.status}`));
      };
      request.onerror = () => reject(new Error("the upload was cut off: the file is too large, or the server is away"));
      request.send(file);
    });
  }

  // ---------------------------------------------------------------------------------------- elements

  function make(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name === "text") node.textContent = value;
      else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.filter(Boolean));
    return node;
  }

  // Answers of the server may overtake one another: whether a later one was drawn already.
  function isOld(root, update) {
    if (!update.version) return false;
    if (update.version < Number(root.dataset.state || 0)) return true;
    root.dataset.state = String(update.version);
    return false;
  }

  function sentence(text) {
    return /^[a-z]+ /.test(text) ? text[0].toUpperCase() + text.slice(1) : text;  // not the name of a file
  }

  // A place to drop a file into, or to choose one with a button.
  function dropZone(options, onFile) {
    const input = make("input", {
      type: "file", class: "cv-file", "aria-label": `${options.label}: choose a file`,
      accept: options.kind === "video" ? "video/*,.mkv,.avi" : "image/*",
      onchange: () => { if (input.files.length) onFile(input.files[0]); input.value = ""; },
    });
    const button = make("button", { type: "button", class: "cv-button", text: "Choose a file", onclick: () => input.click() });
    return { input, button };
  }

  function acceptDrops(node, onFile) {
    const hold = (event) => { event.preventDefault(); event.stopPropagation(); };
    for (const name of ["dragenter", "dragover"]) node.addEventListener(name, (event) => { hold(event); node.classList.add("cv-over"); });
    for (const name of ["dragleave", "drop"]) node.addEventListener(name, (event) => { hold(event); node.classList.remove("cv-over"); });
    node.addEventListener("drop", (event) => { if (event.dataTransfer.files.length) onFile(event.dataTransfer.files[0]); });
  }

  // ---------------------------------------------------------------------------------------- canvas

  const TOOLS = {
    point: { text: "Point", key: "p", help: "Click the object." },
    away: { text: "Not this", key: "n", help: "Click what does not belong to the object." },
    box: { text: "Box", key: "b", help: "Drag a box around the object." },
    brush: { text: "Brush", key: "r", help: "Paint over the object." },
    erase: { text: "Erase", key: "e", help: "Paint over what does not belong to the object." },
  };

  function canvas(element, options, trigger, connect) {
    const root = make("div", { class: "cv-canvas" });
    element.replaceChildren(root);
    let value = { src: null };
    let tool = options.tools[0] || null;
    let strokes = [];           // of the pointer that is down, in pixels of the original
    let cursor = null;          // of the keyboard, likewise
    let corner = null;          // first corner of a box by keyboard
    let brush = 0.02;           // radius, as a fraction of the longer side
    let uploading = null;

    const image = make("img", { class: "cv-image", alt: "", draggable: "false" });
    const layer = make("canvas", { class: "cv-layer", "aria-hidden": "true" });
    const stage = make("div", {
      class: "cv-stage", tabindex: "0", role: "application",
      "aria-label": `${options.label}. Arrow keys move the pointer, Enter clicks.`,
    }, image, layer);
    const { input, button } = dropZone(options, send);
    const empty = make("div", { class: "cv-empty" },
      make("p", { class: "cv-what", text: options.empty }), options.kind && button,
      options.kind && make("p", { class: "cv-quiet", text: options.limits }));
    const title = make("span", { class: "cv-title", text: options.label });
    const about = make("span", { class: "cv-quiet cv-about" });
    const replace = make("button", { type: "button", class: "cv-button cv-small", text: options.other, onclick: () => input.click() });
    const head = make("div", { class: "cv-head" }, title, about, options.kind && replace);
    const bar = make("div", { class: "cv-tools", role: "toolbar", "aria-label": `${options.label}: tools` });
    const buttons = {};
    if (options.tools.length > 1) {
      for (const name of options.tools) {
        buttons[name] = make("button", {
          type: "button", class: "cv-tool", text: TOOLS[name].text, title: `${TOOLS[name].help} (${TOOLS[name].key})`,
          "data-tool": name, "aria-pressed": "false", onclick: () => choose(name),
        });
        bar.append(buttons[name]);
      }
    }
    const size = make("input", {
      type: "range", class: "cv-size", min: "0.4", max: "8", step: "0.2", value: "2", "aria-label": "Size of the brush",
      oninput: () => { brush = Number(size.value) / 100; paint(); },
    });
    if (options.tools.includes("brush")) bar.append(size);
    if (options.tools.length) {
      bar.append(make("button", { type: "button", class: "cv-tool", text: "Undo", title: "Take back the last mark (Ctrl+Z)", onclick: () => trigger("undo", {}) }));
    }
    const help = make("p", { class: "cv-quiet cv-help" });
    const message = make("div", { class: "cv-message", "aria-live": "polite" });
    root.append(head, empty, bar, stage, options.kind ? input : "", help, message);
    if (options.kind) acceptDrops(root, send);

    function shown() { return element.getBoundingClientRect().width - 20; }

    function marks() { return Boolean(value.src) && value.marks !== false; }

    function choose(name) {
      tool = name;
      corner = null;
      for (const [key, node] of Object.entries(buttons)) node.setAttribute("aria-pressed", String(key === name));
      size.hidden = !(name === "brush" || name === "erase");
      help.textContent = name && marks() && !value.message ? TOOLS[name].help : "";
      stage.dataset.tool = name && marks() ? name : "";
      paint();
    }

    async function send(file) {
      const mine = (uploading = {});
      say(`<p class="cv-note" role="status">Uploading ${escape(file.name)}…</p>`);
      try {
        const id = await upload(file, options.kind, (part) => {
          if (uploading === mine) say(`<p class="cv-note" role="status">Uploading ${escape(file.name)}: ${Math.round(100 * part)} %</p>`);
        });
        if (uploading === mine) trigger("upload", { id, name: file.name, shown: shown() });
      } catch (error) {
        if (uploading === mine) say(`<p class="cv-error" role="alert">${escape(sentence(error.message))}</p>`);
      }
    }

    function escape(text) {
      return String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
    }

    function say(html) { message.innerHTML = html || ""; }

    function draw(text) {
      const update = JSON.parse(text || "{}");
      if (isOld(root, update)) return;
      const before = [value.src && value.w, value.h];
      value = update.keep ? { ...value, ...update } : update;
      const has = Boolean(value.src);
      if (has && image.getAttribute("src") !== value.src) image.src = value.src;
      image.alt = has ? `${options.label}: ${value.name || "image"}` : "";
      root.classList.toggle("cv-has", has);
      root.classList.toggle("cv-marks", marks());
      root.classList.toggle("cv-busy", Boolean(value.busy));
      root.setAttribute("aria-busy", String(Boolean(value.busy)));
      about.textContent = has ? `${value.name || ""} ${value.w} × ${value.h}` : "";
      if (!has || before[0] !== value.w || before[1] !== value.h) strokes = [];  // else the visitor is still drawing
      say(value.message);
      root.dataset.version = String(Number(root.dataset.version || 0) + 1);
      const start = corner;
      choose(tool);
      corner = start;
      paint();
    }

    // ------------------------------------------------------------------------------------ marks

    function at(event) {
      const box = image.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * value.w;
      const y = ((event.clientY - box.top) / box.height) * value.h;
      return [Math.min(Math.max(x, 0), value.w - 0.01), Math.min(Math.max(y, 0), value.h - 0.01)];
    }

    function mark(kind, points) {
      trigger("mark", { kind, points, radius: brush * Math.max(value.w, value.h), shown: shown() });
    }

    stage.addEventListener("pointerdown", (event) => {
      if (!marks() || !tool || event.button !== 0) return;
      cursor = null;
      const drags = tool === "box" || tool === "brush" || tool === "erase";
      if (!drags) return;
      event.preventDefault();
      stage.focus({ preventScroll: true });
      stage.setPointerCapture(event.pointerId);
      strokes = [at(event)];
      paint();
    });
    stage.addEventListener("pointermove", (event) => {
      if (!strokes.length) return;
      for (const each of event.getCoalescedEvents ? event.getCoalescedEvents() : [event]) strokes.push(at(each));
      strokes.push(at(event));
      paint();
    });
    stage.addEventListener("pointerup", () => {
      if (!strokes.length) return;
      const points = strokes;
      strokes = [];
      if (tool === "box") {
        const [first, last] = [points[0], points[points.length - 1]];
        if (Math.abs(first[0] - last[0]) >= 1 && Math.abs(first[1] - last[1]) >= 1) mark("box", [first, last]);
      } else {
        mark(tool, thin(points));
      }
      paint();
    });
    stage.addEventListener("pointercancel", () => { strokes = []; paint(); });
    stage.addEventListener("click", (event) => {
      if (!marks() || (tool !== "point" && tool !== "away")) return;
      stage.focus({ preventScroll: true });
      mark(tool === "point" && event.altKey ? "away" : tool, [at(event)]);
    });
    stage.addEventListener("contextmenu", (event) => {
      if (!marks() || !options.tools.includes("away")) return;
      event.preventDefault();
      mark("away", [at(event)]);
    });

    function thin(points) {
      const step = Math.max(value.w, value.h) / 600;
      const kept = [points[0]];
      for (const point of points) {
        const last = kept[kept.length - 1];
        if (Math.hypot(point[0] - last[0], point[1] - last[1]) >= step) kept.push(point);
      }
      return kept;
    }

    stage.addEventListener("keydown", (event) => {
      if (!marks()) return;
      if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") {
        event.preventDefault();
        trigger("undo", {});
        return;
      }
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      const move = moves[event.key];
      if (move) {
        event.preventDefault();
        const step = Math.max(value.w, value.h) * (event.shiftKey ? 0.05 : 0.01);
        cursor = cursor || [value.w / 2, value.h / 2];
        cursor = [
          Math.min(Math.max(cursor[0] + move[0] * step, 0), value.w - 0.01),
          Math.min(Math.max(cursor[1] + move[1] * step, 0), value.h - 0.01),
        ];
        paint();
      } else if ((event.key === "Enter" || event.key === " ") && tool) {
        event.preventDefault();
        cursor = cursor || [value.w / 2, value.h / 2];
        if (tool === "box") {
          if (corner) { mark("box", [corner, cursor]); corner = null; } else corner = cursor.slice();
          paint();
        } else {
          mark(tool, [cursor]);
        }
      } else if (event.key === "Escape") {
        corner = cursor = null;
        paint();
      } else {
        const named = options.tools.find((name) => TOOLS[name].key === event.key.toLowerCase());
        if (named) choose(named);
      }
    });
    stage.addEventListener("blur", () => { corner = null; paint(); });

    // What the pointer and the keyboard are about to mark.
    function paint() {
      const box = image.getBoundingClientRect();
      const scale = window.devicePixelRatio || 1;
      layer.width = Math.max(1, Math.round(box.width * scale));
      layer.height = Math.max(1, Math.round(box.height * scale));
      if (!value.src || !box.width) return;
      const pen = layer.getContext("2d");
      const zoom = layer.width / value.w;
      const line = (width, color) => { pen.lineWidth = width * scale; pen.strokeStyle = color; };
      if (strokes.length && tool === "box") rectangle(strokes[0], strokes[strokes.length - 1]);
      if (strokes.length && tool !== "box") {
        pen.lineCap = pen.lineJoin = "round";
        pen.lineWidth = 2 * brush * Math.max(value.w, value.h) * zoom;
        pen.strokeStyle = tool === "brush" ? value.color || "#1f9bff" : "#000000";
        pen.globalAlpha = 0.45;
        pen.beginPath();
        strokes.forEach(([x, y], i) => (i ? pen.lineTo(x * zoom, y * zoom) : pen.moveTo(x * zoom, y * zoom)));
        if (strokes.length === 1) pen.lineTo(strokes[0][0] * zoom + 0.1, strokes[0][1] * zoom);
        pen.stroke();
        pen.globalAlpha = 1;
      }
      if (cursor) {
        if (corner) rectangle(corner, cursor);
        const [x, y] = [cursor[0] * zoom, cursor[1] * zoom];
        const reach = tool === "brush" || tool === "erase" ? brush * Math.max(value.w, value.h) * zoom : 9 * scale;
        for (const [width, color] of [[4, "#000000"], [2, "#ffffff"]]) {
          line(width, color);
          pen.beginPath();
          pen.moveTo(x - 9 * scale, y); pen.lineTo(x + 9 * scale, y);
          pen.moveTo(x, y - 9 * scale); pen.lineTo(x, y + 9 * scale);
          pen.stroke();
          pen.beginPath(); pen.arc(x, y, reach, 0, 7); pen.stroke();
        }
      }
      function rectangle(a, b) {
        for (const [width, color] of [[4, "#000000"], [2, "#ffffff"]]) {
          line(width, color);
          pen.strokeRect(a[0] * zoom, a[1] * zoom, (b[0] - a[0]) * zoom, (b[1] - a[1]) * zoom);
        }
      }
    }
    new ResizeObserver(paint).observe(image);
    connect(draw);
  }

  // ---------------------------------------------------------------------------------------- lists

  // Draws a list again and leaves the keyboard where it was, and the text that is being written. While a mouse button is
  // down on the list it waits: a click on what was replaced meanwhile would be lost.
  function redrawn(root, build) {
    root.redraw = build;
    if (!root.watched) {
      root.watched = true;
      root.addEventListener("pointerdown", () => { root.pressed = true; });
      for (const name of ["pointerup", "pointercancel"]) {
        document.addEventListener(name, () => {
          if (root.pressed) setTimeout(() => { root.pressed = false; if (root.redraw) redraw(root); });
        }, true);
      }
    }
    if (!root.pressed) redraw(root);
  }

  function redraw(root) {
    const build = root.redraw;
    root.redraw = null;
    const focused = root.contains(document.activeElement) ? document.activeElement : null;
    const key = focused ? focused.dataset.key : null;
    const text = focused && focused.type === "text" && focused.value !== focused.defaultValue ? focused.value : null;
    const place = text === null ? 0 : focused.selectionStart;
    if (text !== null) focused.value = focused.defaultValue;  // what is taken away does not say that it changed
    root.replaceChildren(...build().filter(Boolean));
    if (key) {
      const same = [...root.querySelectorAll("[data-key]")].find((node) => node.dataset.key === key);
      if (same) same.focus({ preventScroll: true });
      if (same && text !== null) { same.value = text; same.setSelectionRange(place, place); }
    }
    root.dataset.version = String(Number(root.dataset.version || 0) + 1);
  }

  function fromHtml(text) {
    const node = make("div", { class: "cv-message" });
    node.innerHTML = text || "";
    return text ? node : null;
  }

  function swatch(color) {
    const node = make("span", { class: "cv-swatch", "aria-hidden": "true" });
    node.style.background = color;
    return node;
  }

  // The objects that are shown: one is current, each has a name, and further ones can be added.
  function objects(element, trigger, connect) {
    const root = make("div", { class: "cv-objects" });
    element.replaceChildren(root);
    connect((text) => {
      const value = JSON.parse(text || "{}");
      if (isOld(root, value)) return;
      redrawn(root, () => {
        if (!(value.objects || []).length) return [];
        const rows = value.objects.map((item, index) => {
          const name = make("input", {
            type: "text", class: "cv-name", value: item.name, maxlength: "60", "data-key": `name ${index}`,
            "aria-label": `Name of object ${index + 1}`,
            onblur: () => { if (name.value !== name.defaultValue) trigger("rename", { index, name: name.value }); },
            onkeydown: (event) => { if (event.key === "Enter") name.blur(); },
          });
          const pick = make("button", {
            type: "button", class: "cv-pick", "aria-pressed": String(index === value.current), "data-key": `pick ${index}`,
            "aria-label": `Mark ${item.name}`, title: `Mark ${item.name}`, onclick: () => trigger("pick", { index }),
          }, swatch(item.color));
          const remove = make("button", {
            type: "button", class: "cv-remove", text: "×", title: `Remove ${item.name}`, "aria-label": `Remove ${item.name}`,
            "data-key": `remove ${index}`, onclick: () => trigger("remove", { index }),
          });
          return make("li", { class: index === value.current ? "cv-current" : "" },
            pick, name, make("span", { class: "cv-quiet", text: item.detail }), remove);
        });
        const add = make("button", {
          type: "button", class: "cv-button cv-small", text: "Add an object", "data-key": "add", onclick: () => trigger("more", {}),
        });
        return [make("ul", { class: "cv-list", "aria-label": "Objects" }, ...rows), add, fromHtml(value.message)];
      });
    });
  }

  // What was found: in words, with the other candidates to choose from.
  function answers(element, trigger, connect) {
    const root = make("div", { class: "cv-answers" });
    element.replaceChildren(root);
    connect((text) => {
      const value = JSON.parse(text || "{}");
      if (isOld(root, value)) return;
      redrawn(root, () => [fromHtml(value.message), ...(value.answers || []).map((item) => {
        const head = make("p", { class: "cv-answer" }, swatch(item.color), make("strong", { text: item.name }),
          make("span", { text: item.words }), make("span", { class: "cv-quiet", text: item.detail }));
        const thumbs = item.thumbs.map((source, candidate) => {
          const label = candidate === 0 ? `${item.name}: the model's match` : `${item.name}: candidate ${candidate + 1}`;
          return make("button", {
            type: "button", class: "cv-thumb", "aria-pressed": String(candidate === item.chosen), title: label,
            "aria-label": label, "data-key": `thumb ${item.index} ${candidate}`,
            onclick: () => trigger("choose", { index: item.index, candidate }),
          }, make("img", { src: source, alt: "", width: "96", height: "72" }));
        });
        const here = make("button", {
          type: "button", class: "cv-button cv-small", text: item.current ? "Clicks here correct it" : "Correct it by clicks",
          "aria-pressed": String(item.current), "data-key": `pick ${item.index}`, onclick: () => trigger("pick", { index: item.index }),
        });
        const absent = make("button", {
          type: "button", class: "cv-button cv-small", text: "Not in this image", "data-key": `absent ${item.index}`,
          onclick: () => trigger("absent", { index: item.index }),
        });
        const notes = item.notes.map((note) => make("p", { class: "cv-quiet", text: note }));
        return make("section", { class: item.current ? "cv-current" : "", "aria-label": item.name },
          head, make("div", { class: "cv-thumbs" }, ...thumbs), ...notes, make("div", { class: "cv-row" }, here, absent));
      })]);
    });
  }

  // How wide an image will be: two beside one another, or one on a narrow screen.
  function shownWidth() {
    const width = document.documentElement.clientWidth;
    return width < 760 ? width - 50 : width / 2 - 70;
  }

  // Pairs of images to begin with.
  function examples(element, trigger, connect) {
    const root = make("div", { class: "cv-examples" });
    element.replaceChildren(root);
    connect((text) => redrawn(root, () => [
      make("span", { class: "cv-quiet", text: "Examples" }),
      ...JSON.parse(text || "[]").map((item, index) => make("button", {
        type: "button", class: "cv-example", title: item.title, "data-key": `example ${index}`, onclick: () => trigger({ index, shown: shownWidth() }),
      }, ...item.images.map((source) => make("img", { src: source, alt: "" })), make("span", { text: item.title }))),
    ]));
  }

  return { begin, upload, canvas, objects, answers, examples, make, redrawn, fromHtml, isOld };
})();
