// Keyboard shortcuts; the pages work without them. A digit chooses an option in the focused group, or else in the first
// unanswered group. Escape closes an enlarged picture.
"use strict";

const form = document.querySelector("form");
const groups = [...form.querySelectorAll(".options")].map((each) => [...each.querySelectorAll("input")]);

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "Escape" && location.hash.startsWith("#large-")) {
    location.hash = "#pictures";
    return;
  }
  const unanswered = groups.findIndex((each) => !each.some((button) => button.checked));
  const focused = groups.findIndex((each) => each.includes(document.activeElement));
  const current = focused >= 0 ? focused : unanswered;
  const button = current >= 0 ? groups[current][Number(event.key) - 1] : undefined;
  if (!button) return;
  event.preventDefault();
  button.checked = true;
  const next = groups[current + 1];
  (next ? next.find((each) => each.checked) || next[0] : form.querySelector("button")).focus();
});
