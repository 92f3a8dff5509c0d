// Light, dark or the system's choice, before anything is painted. A plain script, since modules run later.
"use strict";
{
  const kept = localStorage.getItem("octavo.theme");
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
}
