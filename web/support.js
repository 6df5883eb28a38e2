// What keeps the page from starting is said on it, in place of an empty page. Not a module, and in words that
// browsers of any age can read: those that this is for cannot read the modules.
(function () {
  // Named in README.md: light-dark() of CSS is the youngest part that the pages need; findLast() and dialogs tell
  // browsers that know modules and not what is in them.
  var OLDEST = 'Chrome or Edge 123, Firefox 120, Safari 17.5 (all of May 2024 or before)';
  var said = false;

  function isOld() {
    return !('noModule' in document.createElement('script')) || !Array.prototype.findLast || !window.HTMLDialogElement
      || !window.CSS || !CSS.supports('color', 'light-dark(#000, #fff)');
  }

  // A frame with `sandbox` and without allow-same-origin: an origin that is nobody's, to which no module is given.
  function isSandboxed() {
    return window.origin === 'null';
  }

  function started() {
    return document.documentElement.getAttribute('data-started') !== null;
  }

  function say(text) {
    if (said) return;
    said = true;
    var line = document.createElement('p');
    line.id = 'support';
    line.setAttribute('role', 'alert');
    line.style.cssText = 'position: fixed; top: 0; left: 0; right: 0; z-index: 9; margin: 0; padding: 14px 18px; background: #fdf1d8; color: #5c3d00; font: 15px/1.5 sans-serif;';
    line.appendChild(document.createTextNode(text + ' '));
    var link = document.createElement('a');
    link.href = location.href;
    link.target = window.top === window ? '_self' : '_blank';
    link.rel = 'noopener';
    link.style.color = '#1f4fb0';
    link.appendChild(document.createTextNode(window.top === window ? 'Load it again' : 'Open the page by itself'));
    line.appendChild(link);
    document.body.appendChild(line);
  }

  function when(ready) {
    if (document.body) ready();
    else document.addEventListener('DOMContentLoaded', ready);
  }

  function why(event) {
    if (isSandboxed()) return 'This page is in a sandboxed frame, which may not load its program or ask the gateway. The frame needs sandbox="allow-scripts allow-same-origin".';
    if (isOld()) return 'This browser is too old for this page, which needs ' + OLDEST + ' or newer.';
    // The event of an element that did not load has no message.
    return 'This page could not start: ' + (event.message || 'a part of it did not load') + '.';
  }

  if (isSandboxed() || isOld()) when(function () { say(why({})); });
  window.addEventListener('error', function (event) {
    var target = event.target;
    if (started()) return;
    if (target === window || (target && target.tagName === 'SCRIPT')) when(function () { say(why(event)); });
  }, true);
})();
