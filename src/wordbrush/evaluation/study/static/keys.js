// A nicety: the pages work without. Digits choose in the first group still open, or in the one that has the focus;
// Escape closes an enlarged picture.
"use strict";

const form = document.querySelector("form");
const groups = [...form.querySelectorAll(".options")].map((each) => [...each.querySelectorAll("input")]);

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "Escape" && location.hash.startsWith("#large-")) {
    location.hash = "#pictures";
    return;
  }
  const open = groups.findIndex((each) => !each.some((button) => button.checked));
  const focused = groups.findIndex((each) => each.includes(document.activeElement));
  const at = focused >= 0 ? focused : open;
  const button = at >= 0 ? groups[at][Number(event.key) - 1] : undefined;
  if (!button) return;
  event.preventDefault();
  button.checked = true;
  const next = groups[at + 1];
  (next ? next.find((each) => each.checked) || next[0] : form.querySelector("button")).focus();
});
