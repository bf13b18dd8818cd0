/**
 * The events that wait. Each is an item of its own in local storage, under the id of the tab that added it, so that tabs add events
 * at the same time without waiting for each other.
 */

import { warn } from "./safely.js";
import { names, read, remove, write } from "./storage.js";
import { byteLength } from "./values.js";

export type Event = { type: string; id: string; at: string; visitorId: string } & Record<string, unknown>;

const enum Limit {
  /** Browsers send at most 64 KiB after the end of a page (Fetch, keepalive); `sentAt` has to fit too. */
  BYTES = 48 * 1024,
  /** While this many events wait, page views are dropped. Identities and metadata wait without a limit. */
  WAITING = 500,
}

export function openQueue(prefix: string) {
  const beginning = `${prefix}.unsent.`;
  /** The end of the newest item's name: microseconds since 1970, and always 16 digits. */
  let order = 0;
  /** The newest page view, while it may get another title: its name, and what ends that. */
  let draft = "";
  let finish = () => {};

  /** The names of a tab's items, or of all tabs', in order. */
  const waiting = (tab = "") => names(beginning + tab);

  return {
    waiting,

    /** The tabs that added items, each with the time of its newest one, in ms. */
    tabs: () =>
      new Map(
        waiting().map((name) => {
          const [tab, order] = name.split(".").slice(-2);
          return [tab!, Number(order) / 1000];
        }),
      ),

    /** Returns whether the event outlives the page; undefined if it is not kept. Until `finish`, `change` may change it. */
    add(event: Event, tab: string, change?: () => unknown): boolean | undefined {
      const json = JSON.stringify(event);
      const isExtra = event.type === "VisitorSeen" && waiting().length >= Limit.WAITING;
      if (isExtra || byteLength(json) > Limit.BYTES) {
        warn("not sent: too large, or too many wait:", event);
        return undefined;
      }
      order = Math.max(order + 1, Date.now() * 1000);
      const name = `${beginning}${tab}.${order}`;
      const isStored = write(name, json);
      if (change) {
        finish();
        draft = name;
        finish = () => {
          if (read(draft) && change()) write(name, JSON.stringify(event));
          draft = "";
        };
      }
      return isStored;
    },

    finish: () => finish(),

    /** The first events of a tab that fit into one request, by the names of their items. */
    batch(tab: string, most: number, without: Set<string>): Map<string, Event> {
      const batch = new Map<string, Event>();
      let bytes = 0;
      for (const name of waiting(tab)) {
        if (name === draft) break; // what was added later waits, too, and keeps its place
        if (without.has(name)) continue;
        const event = read(name) as Event | null | undefined;
        if (!event) {
          remove(name); // it is damaged
          continue;
        }
        bytes += byteLength(JSON.stringify(event));
        if (batch.size >= most || (bytes > Limit.BYTES && batch.size)) break;
        batch.set(name, event);
      }
      return batch;
    },
  };
}
