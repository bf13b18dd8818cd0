/** Page views of applications that change the URL without loading a page. */

/** Call `changed` whenever the path or the query of the URL has changed, and when the visitor comes back to the page. */
export function watchPages(changed: () => unknown): void {
  const here = () => location.pathname + location.search;
  let last = here();
  const look = () => {
    if (last !== (last = here())) changed();
  };
  for (const name of ["pushState", "replaceState"] as const) {
    const original = history[name];
    history[name] = function (...args: Parameters<History["pushState"]>) {
      original.apply(this, args);
      queueMicrotask(look); // errors of ours are not the router's
    };
  }
  addEventListener("popstate", look);
  addEventListener("pageshow", ({ persisted }) => persisted && changed()); // from the back/forward cache
}
