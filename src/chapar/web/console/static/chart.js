// The chart of the overview: messages and replies a minute. Its time axis goes from left to right in every language.
(function () {
  "use strict";
  const locale = document.documentElement.lang === "fa" ? "fa-IR" : "en-GB";
  const clock = new Intl.DateTimeFormat(locale, { hour: "2-digit", minute: "2-digit", hour12: false });
  const number = new Intl.NumberFormat(locale);

  function draw() {
    for (const place of document.querySelectorAll(".chart[data-times]")) {
      place.replaceChildren();
      const style = getComputedStyle(document.documentElement);
      const text = style.getPropertyValue("--text");
      const axis = { stroke: text, grid: { stroke: style.getPropertyValue("--line") }, font: "14px system-ui" };
      const dashed = { stroke: style.getPropertyValue("--wait"), width: 2, dash: [6, 4] };
      const answered = place.dataset.answered ? [JSON.parse(place.dataset.answered)] : [];
      new uPlot(
        {
          width: place.clientWidth,
          height: 220,
          cursor: { show: false },
          legend: { show: false },
          scales: { y: { range: (_, least, most) => [0, Math.max(5, most)] } },
          axes: [
            { ...axis, values: (_, splits) => splits.map((at) => clock.format(new Date(at * 1000))) },
            { ...axis, values: (_, splits) => splits.map((count) => number.format(count)) },
          ],
          series: [{}, { stroke: style.getPropertyValue("--accent"), width: 2 }, ...answered.map(() => dashed)],
        },
        [JSON.parse(place.dataset.times), JSON.parse(place.dataset.counts), ...answered],
        place,
      );
    }
  }

  draw();
  document.addEventListener("htmx:afterSwap", draw);
  window.addEventListener("resize", draw);
})();
