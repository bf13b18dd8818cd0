/** What the gateway knows of the visitor's contact, over Server-Sent Events. */

import type { Contact } from "./types.js";
import { backOffMs, safely } from "./safely.js";

declare global {
  /** Whether a build has this module: the usual script goes without, to be small. */
  const LIVE: boolean;
}

/** The part of the contact that the gateway shows: `metadata` only where the key allows it. */
export type Shown = { name: string | null; image: string | null; metadata?: Contact["metadata"] };

/**
 * Call `shown` with what each URL says that is passed to the returned function, now and after each change. Without a URL, it ends.
 *
 * Only while the page is visible: over HTTP/1.1 a browser has six connections to a host, for all its tabs, and a page with an
 * open one cannot go into the back/forward cache.
 */
export function live(shown: (contact: Shown | null) => void): (url?: string) => void {
  let url: string | undefined;
  let source: EventSource | undefined;
  let timer: ReturnType<typeof setTimeout>;
  let failures = 0;
  const open = () => {
    clearTimeout(timer);
    source?.close();
    if (!url || document.hidden || !window.EventSource) return;
    source = new EventSource(url);
    source.onmessage = ({ data }) => {
      failures = 0;
      safely(() => shown(JSON.parse(data).contact));
    };
    source.onerror = () => {
      source!.close(); // by itself it gives up after a status such as 429, and tries the others too often
      timer = setTimeout(open, backOffMs(failures++));
    };
  };
  document.addEventListener("visibilitychange", open);
  return (next) => {
    url = next;
    open();
  };
}
