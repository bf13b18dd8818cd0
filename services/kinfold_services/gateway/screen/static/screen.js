// The screen's own script: keys, times that move on, and live connections that rest while nobody looks.
"use strict";

(() => {
  const ONLINE_MS = 5 * 60 * 1000;
  const SPANS = [[31536000, "y"], [2592000, "mo"], [86400, "d"], [3600, "h"], [60, "min"]];
  document.documentElement.classList.add("js");

  // --- times: the same words as words.py

  const ago = (text) => {
    const seconds = (Date.now() - Date.parse(text)) / 1000;
    if (seconds < 45) return "just now";
    for (const [length, unit] of SPANS) if (seconds >= length) return `${Math.floor(seconds / length)} ${unit} ago`;
    return "1 min ago";
  };
  const tick = (root) => {
    for (const time of root.querySelectorAll("time[data-ago]")) {
      const text = ago(time.dateTime);
      if (time.textContent !== text) time.textContent = text;
    }
    for (const dot of root.querySelectorAll("[data-seen]")) {
      const isOnline = Math.abs(Date.now() - Date.parse(dot.dataset.seen)) < ONLINE_MS;
      if (dot.classList.contains("online") === isOnline) continue;
      dot.classList.toggle("online", isOnline);
      const words = dot.querySelector(".hidden, .says");
      if (words) words.textContent = isOnline ? "online" : "offline";
    }
  };
  setInterval(() => tick(document), 5000);

  // --- live connections: closed while the page is hidden, since a browser has only six for each site

  const RESTS_AFTER_MS = 10000;
  const AWAY_AFTER_MS = 4000; // a stream that was cut is open again by then, if the server is there
  let isPaused = false;
  let isLeaving = false;
  const connections = new Set();

  class LiveConnection {
    #url;
    #since = "";
    #listeners = [];
    #source = null;

    constructor(url) {
      this.#url = url;
      connections.add(this);
      this.wake(); // not while paused: `p` can be pressed before htmx connects, and htmx connects again after an error
    }

    get readyState() {
      return this.#source ? this.#source.readyState : EventSource.CONNECTING;
    }

    addEventListener(name, listener) {
      const heard = (event) => {
        this.#since = event.lastEventId || this.#since;
        listener(event);
      };
      this.#listeners.push([name, listener, heard]);
      this.#source?.addEventListener(name, heard);
    }

    removeEventListener(name, listener) {
      this.#listeners = this.#listeners.filter(([known, given, heard]) => {
        const isIt = known === name && given === listener;
        if (isIt) this.#source?.removeEventListener(name, heard);
        return !isIt;
      });
    }

    close() {
      connections.delete(this);
      this.rest();
    }

    rest() {
      this.#source?.close();
      this.#source = null;
    }

    wake() {
      if (!this.#source && !isPaused) this.#open();
    }

    #open() {
      const url = new URL(this.#url, location.href);
      if (this.#since) url.searchParams.set("since", this.#since);
      this.#source = new EventSource(url);
      this.#source.onopen = (event) => {
        isAway(false);
        this.onopen?.(event);
      };
      this.#source.onerror = (event) => {
        awaySoon ||= setTimeout(() => !isLeaving && isAway(true), AWAY_AFTER_MS); // from the first error on, since each try ends in one
        this.onerror?.(event);
      };
      for (const [name, , heard] of this.#listeners) this.#source.addEventListener(name, heard);
    }
  }

  htmx.createEventSource = (url) => new LiveConnection(url);
  let resting = 0;
  document.addEventListener("visibilitychange", () => {
    clearTimeout(resting);
    if (document.hidden) resting = setTimeout(() => connections.forEach((each) => each.rest()), RESTS_AFTER_MS);
    else connections.forEach((each) => each.wake());
  });
  const pause = (button) => {
    isPaused = !isPaused;
    button.setAttribute("aria-pressed", isPaused);
    button.querySelector("span").textContent = isPaused ? "Resume" : "Pause";
    const state = document.getElementById("live-state");
    state.classList.toggle("paused", isPaused);
    state.querySelector("[data-says]").textContent = isPaused ? "Paused" : "Events appear as they come in";
    connections.forEach((each) => (isPaused ? each.rest() : each.wake()));
  };
  // A list that grows at the top keeps as many rows as it says.
  document.addEventListener("htmx:afterSettle", (event) => {
    const list = event.target.closest?.("[data-keeps]");
    while (list && list.children.length > Number(list.dataset.keeps)) list.lastElementChild.remove();
  });
  // Nothing is loaded again and again for a page that nobody sees.
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (document.hidden && event.target.closest("[data-rests]")) event.preventDefault();
  });
  // --- what takes long, and a server that is away

  const away = document.getElementById("away");
  let awaySoon = 0;
  const isAway = (yes) => {
    clearTimeout(awaySoon);
    awaySoon = 0;
    if (away.hidden === yes) away.hidden = !yes;
  };
  document.addEventListener("htmx:sendError", () => isAway(true));
  document.addEventListener("htmx:afterOnLoad", () => isAway(false));
  // A form that folds the log takes a while: the button says so, and cannot be pressed twice.
  document.addEventListener("submit", (event) => {
    const button = event.submitter;
    if (!button || event.target.method !== "post" || event.defaultPrevented) return;
    if (button.getAttribute("aria-busy")) return event.preventDefault();
    button.setAttribute("aria-busy", "true");
  });
  addEventListener("pageshow", () => {
    for (const button of document.querySelectorAll("[aria-busy]")) button.removeAttribute("aria-busy");
  });
  addEventListener("pagehide", () => (isLeaving = true));
  addEventListener("pageshow", () => (isLeaving = false));
  addEventListener("pagehide", () => connections.forEach((each) => each.rest()));
  addEventListener("pageshow", (event) => event.persisted && connections.forEach((each) => each.wake()));

  // --- keys

  const isTyping = (target) => target.matches("input:not([type=range]), textarea, select, [contenteditable]");
  const rows = () => [...document.querySelectorAll("[data-row] a.person, a[data-row]")];
  const move = (step) => {
    const links = rows();
    const at = links.indexOf(document.activeElement);
    links[at < 0 ? (step > 0 ? 0 : links.length - 1) : Math.min(Math.max(at + step, 0), links.length - 1)]?.focus();
  };
  const leave = (field) => {
    const menu = field.closest("details.menu");
    field.blur();
    if (!menu) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  };
  let goesSince = 0;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const search = document.getElementById("q");
    if (isTyping(event.target)) {
      if (event.target === search && event.key === "ArrowDown") move(1);
      else if (event.target === search && event.key === "Enter" && search.hasAttribute("hx-get")) rows()[0]?.click();
      else if (event.key === "Escape") leave(event.target);
      else return;
      event.preventDefault();
      return;
    }
    const back = document.querySelector("a[data-back]");
    const place = Date.now() - goesSince < 1500 && document.querySelector(`a[data-key="${CSS.escape(event.key)}"]`);
    goesSince = event.key === "g" ? Date.now() : 0;
    if (place) place.click();
    else if (event.key === "/" && search) (search.focus(), search.select());
    else if (event.key === "/") location.assign("/people#q");
    else if (event.key === "j") move(1);
    else if (event.key === "k") move(-1);
    else if (event.key === "p" && document.querySelector("[data-pauses]")) pause(document.querySelector("[data-pauses]"));
    else if (event.key === "?") document.getElementById("help").showModal();
    else if (event.key === "Escape" && back) back.click();
    else return;
    event.preventDefault();
  });
  if (location.hash === "#q") document.getElementById("q")?.focus();

  // The way back to the people leads to the search that was left. A sign-in begins without one.
  const LIST = "/people";
  if (!document.querySelector(".side")) sessionStorage.removeItem(LIST);
  else if (location.pathname === LIST) addEventListener("pagehide", () => sessionStorage.setItem(LIST, location.search));
  else for (const link of document.querySelectorAll(`a[data-back][href="${LIST}"]`)) link.search = sessionStorage.getItem(LIST) ?? "";

  // --- the slider: it says the time while it moves, and shows the person when it rests

  const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
  const moment = (ms) => {
    const at = new Date(ms);
    const two = (value) => String(value).padStart(2, "0");
    const day = `${at.getUTCDate()} ${MONTHS[at.getUTCMonth()]} ${at.getUTCFullYear()}`;
    return `${day}, ${two(at.getUTCHours())}:${two(at.getUTCMinutes())} UTC`;
  };
  document.addEventListener("input", (event) => {
    const form = event.target.closest("form[data-submits]");
    if (!form) return;
    const text = moment(Number(event.target.value));
    form.querySelector("[data-moment]").textContent = text;
    event.target.setAttribute("aria-valuetext", text);
  });
  document.addEventListener("change", (event) => event.target.closest("form[data-submits]")?.requestSubmit());

  // --- buttons and menus

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-opens], [data-copies]");
    if (button?.dataset.opens) document.getElementById(button.dataset.opens).showModal();
    if (button?.dataset.copies) {
      navigator.clipboard.writeText(document.getElementById(button.dataset.copies).textContent).then(() => {
        button.textContent = "Copied";
      });
    }
    const pauses = event.target.closest("[data-pauses]");
    if (pauses) pause(pauses);
    for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
  });
  const enter = (menu) => menu.querySelector("input:not([type=hidden])")?.focus();
  document.addEventListener("toggle", (event) => event.target.matches("details.menu[open]") && enter(event.target), true);
  // A picture that cannot be loaded leaves the initials behind it.
  document.addEventListener("error", (event) => event.target.matches?.(".face img") && event.target.remove(), true);
})();
