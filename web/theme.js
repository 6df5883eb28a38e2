// Not a module, so that it runs before the first paint: a chosen theme must not flash the other one.
try {
  const theme = localStorage.getItem("barcast.theme");
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
} catch {
  // Storage may be forbidden; the system's preference holds then.
}
