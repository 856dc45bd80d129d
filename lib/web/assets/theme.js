// Before anything is drawn: the colours that the reader has chosen here.
(() => {
  try {
    const theme = localStorage.getItem("distci-theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch { /* no storage: as the system */ }
  document.documentElement.classList.add("scripted");
})();
