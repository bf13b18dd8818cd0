/** Page views of applications that change the URL without loading a page. */

/** Call `changed` now, and whenever the path or the query of the URL has changed. */
export function watchPages(changed: () => void): void {
  let last = "";
  const look = () => {
    const url = location.pathname + location.search;
    if (url !== last) {
      last = url;
      changed();
    }
  };
  for (const name of ["pushState", "replaceState"] as const) {
    const original = history[name];
    history[name] = function (...args: Parameters<History["pushState"]>) {
      original.apply(this, args);
      queueMicrotask(look); // errors of ours are not the router's
    };
  }
  addEventListener("popstate", look);
  look();
}
