// What a page does beyond what it shows: times in the reader's own clock and calendar, no form sent twice, and a
// notice while the gateway does not answer.
(function () {
  "use strict";
  const language = document.documentElement.lang;
  const locale = language === "fa" ? "fa-IR-u-ca-persian" : "en-GB";
  const moment = new Intl.DateTimeFormat(locale, {
    year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false,
  });
  const gregorian = new Intl.DateTimeFormat("en-CA", {
    year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit",
    hour12: false, timeZoneName: "short",
  });

  function writeTimes(root) {
    for (const element of root.querySelectorAll("time[datetime]")) {
      const at = new Date(element.dateTime);
      if (!Number.isNaN(at.getTime())) {
        element.textContent = moment.format(at).replace(",", language === "fa" ? "\u060c" : "");
        element.title = gregorian.format(at);
      }
    }
  }

  function fillOffsets() {
    for (const field of document.querySelectorAll("input[data-offset]")) {
      field.value = String(-new Date().getTimezoneOffset());
    }
  }

  function isAway(away) {
    document.getElementById("away").hidden = !away;
  }

  // What lives on a page is asked for again: at once where the stream says that something has changed, else every few
  // seconds. Nobody sees a page in the background, so it rests, and catches up when it is opened again.
  const live = document.querySelector("[data-every]");
  let stream = null;
  let asked = Date.now();

  function refresh() {
    if (live !== null && live.dataset.every && !document.hidden) {
      asked = Date.now();
      htmx.trigger(live, "refresh");
    }
  }

  function listen() {
    const wanted = live !== null && live.dataset.stream && live.dataset.every && !document.hidden;
    if (wanted && stream === null) {
      // What has changed since the page was made is notified as well.
      const between = live.dataset.stream.includes("?") ? "&" : "?";
      stream = new EventSource(`${live.dataset.stream}${between}since=${document.documentElement.dataset.made}`);
      stream.addEventListener("changed", refresh);
    } else if (!wanted && stream !== null) {
      stream.close();
      stream = null;
    }
  }

  if (live !== null) {
    listen();
    window.setInterval(() => {
      if (stream !== null && stream.readyState === EventSource.CLOSED) {
        stream = null;
        window.setTimeout(listen, 30000);
      }
      const isStreamed = stream !== null && stream.readyState === EventSource.OPEN;
      const pause = Number(live.dataset.every) * (isStreamed ? 6 : 1);
      if (Date.now() - asked >= pause * 1000) {
        refresh();
      }
    }, 1000);
    document.addEventListener("visibilitychange", () => {
      listen();
      refresh();
    });
    document.addEventListener("htmx:afterOnLoad", (event) => {
      if (event.detail.xhr.status === 286) {
        delete live.dataset.every;
        listen();
      }
    });
  }

  writeTimes(document);
  fillOffsets();
  document.addEventListener("htmx:afterSwap", (event) => writeTimes(event.target));
  document.addEventListener("htmx:beforeSwap", (event) => {
    // What a reader has opened stays open until it is closed again.
    if (event.target.querySelector("details[open]")) {
      event.detail.shouldSwap = false;
    }
  });
  for (const name of ["htmx:sendError", "htmx:timeout", "htmx:responseError"]) {
    document.addEventListener(name, () => isAway(true));
  }
  document.addEventListener("htmx:afterOnLoad", (event) => {
    if (event.detail.successful !== false && event.detail.xhr.status < 400) {
      isAway(false);
    }
  });

  // A double tap sends once; coming back by the browser's button makes the form usable again.
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.method !== "post") {
      return;
    }
    if (form.dataset.sent) {
      event.preventDefault();
      return;
    }
    form.dataset.sent = "true";
    for (const button of form.querySelectorAll("button")) {
      button.setAttribute("aria-disabled", "true");
    }
  });
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) {
      window.location.reload();
    }
  });
})();
