/**
 * How events get to the gateway. A tab sends its own events, and those of tabs that have ended.
 *
 * An event is removed when the gateway has appended it or rejected it for good. So an event whose answer got lost is sent again,
 * with the same id, and the fold drops the second one (contract section 3, Duplicates).
 */

import { type Event, openQueue } from "./queue.js";
import { read, remove, write } from "./storage.js";
import { backOffMs, warn } from "./safely.js";
import { openTabs } from "./tabs.js";

/** An enum, because its numbers are written into the code: the script is smaller. */
const enum Limit {
  EVENTS = 100,
  GATHER_MS = 100,
  ANSWER_MS = 20_000,
  TOLD_MS = 3_600_000,
  /** For this long after a tab has sent events, others leave them: they may have arrived, though the tab ended before the answer. */
  OTHERS_MS = 10_000,
}

interface Rejected {
  index: number;
  detail: string;
}

export type Sender = ReturnType<typeof openSender>;

export function openSender(prefix: string, url: string, onRejected: (event: Event) => void) {
  const queue = openQueue(prefix);
  const tabs = openTabs(prefix);
  const ended = new AbortController();
  const { signal } = ended;
  const inFlight = new Set<string>();
  let running: Promise<boolean> | undefined;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let dueMs = Infinity;
  let failures = 0;
  let most: number = Limit.EVENTS;

  const clock = (name: string) => Number(read(name)) || 0;

  /** Until when all tabs wait, also those that are opened later. */
  const pause = `${prefix}.wait`;

  const waitMs = () => {
    const ms = clock(pause) - Date.now();
    return ms > Limit.TOLD_MS ? 0 : Math.max(0, ms); // the clock was set back
  };

  /** When a tab's newest request began, while it may be under way. */
  const mark = (tab: string) => `${prefix}.sent.${tab}`;

  const settle = () => {
    clearTimeout(timer);
    dueMs = Infinity;
  };

  /** Send after this many milliseconds, or earlier. */
  const soon = (ms: number) => {
    const due = Date.now() + ms;
    if (signal.aborted || due >= dueMs) return;
    clearTimeout(timer);
    dueMs = due;
    timer = setTimeout(flush, ms);
  };

  const failed = (retryAfter = ""): false => {
    const told = Number(retryAfter) * 1000 || Date.parse(retryAfter) - Date.now();
    const ms = told > 0 ? Math.min(told, Limit.TOLD_MS) : backOffMs(failures);
    failures++;
    if (!signal.aborted) write(pause, `${Date.now() + ms}`);
    return false;
  };

  /** Send events of a tab in one request. Returns whether to go on with the next ones. */
  const post = async (tab: string, batch: Map<string, Event>): Promise<boolean> => {
    const sentAt = new Date().toISOString(); // one for all: the gateway's correction of the clock keeps their distance
    const events = [...batch.values()].map((event) => ({ ...event, sentAt }));
    const names = [...batch.keys()];
    names.forEach((name) => inFlight.add(name));
    write(mark(tab), `${Date.now()}`);
    try {
      // A simple request (Fetch, CORS): no preflight, so that it also works while the page ends.
      const answer = await fetch(url, {
        method: "POST",
        body: JSON.stringify(events),
        keepalive: true,
        credentials: "omit",
        signal: AbortSignal.timeout?.(Limit.ANSWER_MS),
      });
      const text = await answer.text();
      let rejected: Rejected[] = [{ index: 0, detail: text }];
      if (answer.status === 202) rejected = JSON.parse(text).rejected;
      else if (![400, 413, 422].includes(answer.status)) {
        warn(text);
        return failed(answer.headers.get("Retry-After") ?? "");
      } else if (events.length > 1) {
        most = events.length >> 1; // the gateway takes none of them: find the one that it does not take
        return true;
      }
      for (const { index, detail } of rejected) {
        const event = events[index]!;
        warn(detail, event);
        if (!signal.aborted) onRejected(event);
        dispatchEvent(new CustomEvent("kinfold:rejected", { detail: { event, detail } }));
      }
      failures = 0;
      most = Limit.EVENTS;
      names.forEach(remove);
      return true;
    } catch {
      return failed();
    } finally {
      remove(mark(tab));
      names.forEach((name) => inFlight.delete(name));
    }
  };

  const drain = async (): Promise<boolean> => {
    const own = tabs.own();
    const others = queue.tabs();
    others.delete(own);
    for (const [tab, addedMs] of [...others, [own, 0] as const]) {
      if (!tabs.isHeld(tab)) {
        // Without locks, a tab that still works looks like one that has ended until it sends.
        const lateMs = Math.max(navigator.locks ? 0 : addedMs, clock(mark(tab))) + Limit.OTHERS_MS - Date.now();
        if (lateMs > 0 && lateMs <= Limit.OTHERS_MS) {
          soon(lateMs);
          continue;
        }
        if (!(await tabs.hold(tab))) continue;
      }
      for (let batch; (batch = queue.batch(tab, most, inFlight)).size; )
        if (signal.aborted || waitMs() || !(await post(tab, batch))) return false;
    }
    return true;
  };

  /** Send what waits. Resolves to whether nothing waits any more. */
  const flush = (): Promise<boolean> => {
    queue.finish();
    if (!running) {
      settle();
      running = drain().then((isDone) => {
        running = undefined;
        if (!isDone) soon(Math.max(Limit.GATHER_MS, waitMs()));
        return isDone && !inFlight.size;
      });
    }
    return running;
  };

  const enter = () => {
    tabs.enter();
    if (queue.waiting().length) soon(0);
  };

  /** The page ends: nothing can be waited for. */
  const leave = () => {
    queue.finish();
    const tab = tabs.own();
    if (!waitMs()) for (let batch; (batch = queue.batch(tab, most, inFlight)).size; ) void post(tab, batch);
    tabs.leave();
  };

  const on = (target: EventTarget | undefined, type: string, listener: (event: any) => unknown) =>
    target?.addEventListener(type, listener, { signal });
  on(window, "online", () => {
    remove(pause);
    void flush();
  });
  on(window, "pageshow", ({ persisted }) => persisted && enter());
  on(window, "pagehide", leave);
  // A phone may end the page without another event.
  on(document, "visibilitychange", () => document.hidden && flush());
  // Most answers come before the next page does, so that it need not send the events again.
  on((window as { navigation?: EventTarget }).navigation, "navigate", (event) => event.destination.sameDocument || flush());
  enter();

  return {
    flush,

    /** Add an event. Returns whether it outlives the page; undefined if it is not sent. Before that, `change` may change it. */
    add(event: Event, change?: () => unknown): boolean | undefined {
      const isStored = queue.add(event, tabs.own(), change);
      if (change) settle();
      soon(Limit.GATHER_MS);
      return isStored;
    },

    /** The events that wait for their answers. */
    waiting: () => queue.waiting().map(read) as Array<Event | null | undefined>,

    /** Send nothing any more. */
    stop(): void {
      ended.abort();
      settle();
      tabs.leave();
    },
  };
}
