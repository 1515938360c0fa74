// Headings sort their table; what has a tooltip shows it at once. The page is whole without this.
"use strict";
(() => {
  const scale = { p: -12, n: -9, u: -6, "µ": -6, m: -3, k: 3, M: 6, G: 9, T: 12 };
  const valueOf = (text) => {
    const found = /^(-?[\d,]*\.?\d+(?:e[+-]?\d+)?)\s?([pnuµmkMGT](?!in))?/.exec(text.trim());
    if (!found) return text.trim() === "inf" ? Infinity : NaN;
    return Number(found[1].replaceAll(",", "")) * 10 ** (scale[found[2]] ?? 0);
  };
  const sort = (table, head, column) => {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const numbers = head.classList.contains("number");
    const rows = [...table.tBodies[0].rows].map((row) => {
      const text = row.cells[column].textContent;
      return { row, key: numbers ? valueOf(text) : text };
    });
    rows.sort((a, b) => {
      if (!numbers) return (down ? -1 : 1) * a.key.localeCompare(b.key, "en", { numeric: true });
      if (Number.isNaN(a.key) || Number.isNaN(b.key)) return Number.isNaN(a.key) - Number.isNaN(b.key);
      return (down ? -1 : 1) * (a.key < b.key ? -1 : a.key > b.key ? 1 : 0);
    });
    table.tBodies[0].append(...rows.map((one) => one.row));
  };
  for (const table of document.querySelectorAll("table")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(table, head, column));
      head.append(button);
    });
  }
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);
  for (const title of document.querySelectorAll("svg g > title")) {
    title.parentNode.dataset.tip = title.textContent;
    title.remove();
  }
  document.addEventListener("pointerover", (event) => {
    const group = event.target.closest?.("[data-tip]");
    tip.hidden = !group;
    if (!group) return;
    tip.textContent = group.dataset.tip;
    const width = document.documentElement.clientWidth;
    tip.style.left = `${Math.max(Math.min(event.clientX + 12, width - tip.offsetWidth - 8), 8)}px`;
    tip.style.top = `${event.clientY + 14}px`;
  });
})();
