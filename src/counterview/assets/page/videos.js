// Scripts of the tabs "Videos" and "Data sets", beside those of page.js.
"use strict";

Object.assign(window.counterview, (() => {
  const { make, upload, redrawn, fromHtml } = window.counterview;

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

  // What following found: the video, when objects are visible, and what to check.
  function results(element, trigger, connect) {
    const root = make("div", { class: "cv-results" });
    element.replaceChildren(root);
    let address = null;
    let player = null;
    connect((text) => {
      const value = JSON.parse(text || "{}");
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

  return { opener, results, gallery };
})());
