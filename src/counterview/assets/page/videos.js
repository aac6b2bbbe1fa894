// Scripts of the tabs "Videos" and "Data sets", beside those of page.js.
"use strict";

Object.assign(window.counterview, (() => {
  const { make, upload, redrawn, fromHtml, isOld } = window.counterview;

  // Where work begins: an example, or work that was taken away earlier.
  function opener(element, trigger, connect) {
    const root = make("div", { class: "cv-opener" });
    element.replaceChildren(root);
    const input = make("input", {
      type: "file", class: "cv-file", accept: ".zip", "aria-label": "Open work: choose work.zip",
      onchange: () => { if (input.files.length) send(input.files[0]); input.value = ""; },
    });
    const message = make("div", { class: "cv-message", "aria-live": "polite" });
    root.append(
      make("button", { type: "button", class: "cv-button cv-small", text: "Take an example", onclick: () => trigger("example", {}) }),
      make("button", { type: "button", class: "cv-button cv-small", text: "Open work.zip", onclick: () => input.click() }),
      make("button", { type: "button", class: "cv-button cv-small", text: "Begin again", onclick: () => trigger("clear", {}) }),
      input, message);

    function say(text, kind) {
      message.replaceChildren(make("p", { class: kind, role: kind === "cv-error" ? "alert" : "status", text }));
    }

    async function send(file) {
      say(`Uploading ${file.name}…`, "cv-note");
      try {
        const id = await upload(file, "work", (part) => say(`Uploading ${file.name}: ${Math.round(100 * part)} %`, "cv-note"));
        say(`Opening ${file.name}…`, "cv-note");
        trigger("open", { id, name: file.name });
      } catch (error) {
        say(error.message[0].toUpperCase() + error.message.slice(1), "cv-error");
      }
    }

    connect((text) => { message.innerHTML = text || ""; });
  }

  // A number that is set by hand, or by the server. What the server sent before it knew of the last edit is passed over,
  // and the next edit is sent when it knows of the one before: only the newest of those between counts.
  const PATIENCE_MS = 1500;

  function slider(element, options, trigger, connect) {
    const id = `${element.id || "cv"}-${Math.random().toString(36).slice(2)}`;
    const number = make("input", { type: "number", class: "cv-number", step: "any", id });
    const range = make("input", { type: "range", class: "cv-range", step: "0.01", "aria-label": options.label });
    const root = make("div", { class: "cv-slider" },
      make("div", { class: "cv-slider-head" }, make("label", { for: id, text: options.label }), number), range);
    element.replaceChildren(root);
    let edit = 0;
    let sent = 0;
    let known = 0;
    let since = null;
    let current = 0;
    let typing = false;

    function show(value) { number.value = String(Math.round(value * 1000) / 1000); range.value = String(value); }

    function submit() {
      if (since !== null || edit === sent) return;
      sent = edit;
      trigger("set", { value: current, edit });
      since = setTimeout(() => { since = null; submit(); }, PATIENCE_MS);
    }

    function set(value) {
      if (!Number.isFinite(value)) { show(current); return; }
      current = Math.min(Math.max(value, Number(range.min)), Number(range.max));
      edit += 1;
      submit();
    }

    number.addEventListener("input", () => { typing = true; });
    number.addEventListener("blur", () => { typing = false; });
    number.addEventListener("change", () => { typing = false; set(number.value === "" ? NaN : Number(number.value)); show(current); trigger("rest", {}); });
    range.addEventListener("input", () => { set(Number(range.value)); number.value = range.value; });
    range.addEventListener("change", () => trigger("rest", {}));

    connect((text) => {
      if (!text) return;
      const value = JSON.parse(text);
      if (isOld(root, value)) return;
      for (const node of [range, number]) { node.min = value.low; node.max = value.high; }
      known = Math.max(known, value.edit);
      if (known >= edit) {
        current = value.value;
        if (typing) range.value = String(current);
        else show(current);
      } else {
        range.value = String(current);
      }
      if (known >= sent && since !== null) { clearTimeout(since); since = null; submit(); }
    });
  }

  // What following found: the video, when objects are visible, and what to check.
  function results(element, trigger, connect) {
    const root = make("div", { class: "cv-results" });
    element.replaceChildren(root);
    let address = null;
    let player = null;
    connect((text) => {
      const value = JSON.parse(text || "{}");
      if (isOld(root, value)) return;
      const at = player ? player.currentTime : 0;
      redrawn(root, () => {
        if (!value.video) { address = player = null; return [fromHtml(value.message)]; }
        if (value.video !== address) {
          address = value.video;
          player = make("video", {
            class: "cv-video", src: address, controls: true, playsinline: true, preload: "metadata",
            "aria-label": "All cameras side by side, with the objects that were followed",
          });
          player.addEventListener("loadedmetadata", () => { if (at) player.currentTime = Math.min(at, player.duration); }, { once: true });
        }
        const strip = fromHtml(value.strip);
        strip.querySelectorAll(".cv-bar").forEach((bar) => bar.addEventListener("click", (event) => {
          const box = bar.getBoundingClientRect();
          const { first, last } = strip.querySelector(".cv-strip").dataset;
          const part = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
          trigger("time", { time_s: Number(first) + part * (Number(last) - Number(first)) });
        }));
        const review = (value.review || []).map((row) => make("li", {},
          make("button", {
            type: "button", class: "cv-place", "data-key": `place ${row.index}`, "aria-pressed": String(row.current),
            title: row.why, onclick: () => trigger("choose", { index: row.index }),
          }, make("img", { src: row.thumb, alt: "", width: "240", height: "180", loading: "lazy" }),
          make("span", { text: row.title }), make("span", { class: "cv-quiet", text: row.why }))));
        const heading = make("h3", { class: "cv-subtitle", text: review.length ? "To check, the worst first" : "Nothing to check" });
        const list = review.length ? make("ol", { class: "cv-places", "aria-label": "Places to check" }, ...review) : null;
        const note = review.length ? make("p", { class: "cv-quiet", text: value.note }) : null;
        return [fromHtml(value.message), player, strip, heading, note, list, fromHtml(value.downloads), fromHtml(value.said)];
      });
    });
  }

  // Images with a line below each; a click on one is told with its index.
  function gallery(element, options, trigger, connect) {
    const root = make("div", { class: "cv-results" });
    element.replaceChildren(root);
    connect((text) => {
      const value = JSON.parse(text || "{}");
      redrawn(root, () => {
        const items = (value.items || []).map((row) => make("li", {},
          make("button", {
            type: "button", class: "cv-place", "data-key": `place ${row.index}`, "aria-pressed": String(Boolean(row.current)),
            onclick: () => trigger("choose", { index: row.index }),
          }, make("span", { class: "cv-side" }, ...row.thumbs.map((source) => make("img", { src: source, alt: "", loading: "lazy" }))),
          make("span", { text: row.title }), make("span", { class: "cv-quiet", text: row.why }))));
        return [fromHtml(value.message), items.length ? make("ol", { class: "cv-places", "aria-label": options.label }, ...items) : null];
      });
    });
  }

  return { opener, slider, results, gallery };
})());
