// Light or dark: the system's choice until the button is pressed. Not a module, so that it runs before the first paint.

(() => {
  const root = document.documentElement;
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const chosen = localStorage.getItem("polytask-theme");
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;

  const current = () => root.dataset.theme ?? (system.matches ? "dark" : "light");

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const show = () => {
      const other = current() === "dark" ? "light" : "dark";
      button.setAttribute("aria-label", `Switch to ${other} colours`);
      button.title = `Switch to ${other} colours`;
    };
    button.addEventListener("click", () => {
      root.dataset.theme = current() === "dark" ? "light" : "dark";
      localStorage.setItem("polytask-theme", root.dataset.theme);
      show();
    });
    system.addEventListener("change", show);
    show();
  });
})();
