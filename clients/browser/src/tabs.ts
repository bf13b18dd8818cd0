/**
 * Which tab sends which events: its own, and those of tabs that have ended. It holds a lock (Web Locks) for each of them. One lock
 * for all tabs would not do: a tab sees another one's changes of the storage only some time after the lock was free.
 */

import { newId } from "./visitors.js";

export function openTabs(prefix: string) {
  let held: Set<string>;
  let own: string;
  let release: () => void;
  let left: Promise<void>;

  /** Resolves to whether the lock of a tab was free. It is held until this page ends. */
  const hold = (tab: string) =>
    new Promise<boolean>((resolve) => {
      // Without TLS there are no locks, and where cookies are blocked none is granted, but there is no other tab's event either.
      const request = navigator.locks?.request(prefix + tab, { ifAvailable: true }, (lock) => {
        resolve(!!lock);
        return lock && left;
      });
      if (request) request.catch(() => resolve(true));
      else resolve(true);
    });

  return {
    /** The id of this tab. */
    own: () => own,

    /** Whether this tab sends the events of that one. */
    isHeld: (tab: string) => held.has(tab),

    /** Try to take over the events of another tab. Resolves to whether it has ended. */
    hold: async (tab: string) => (await hold(tab)) && !!held.add(tab),

    /** The page begins, or comes back from the back/forward cache: other tabs may have sent its events meanwhile. */
    enter(): void {
      left = new Promise((resolve) => (release = resolve));
      held = new Set([(own = newId())]);
      void hold(own);
    },

    /** The page ends. Without locks it may go into the back/forward cache. */
    leave: () => release(),
  };
}
