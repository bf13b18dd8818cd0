/**
 * The queue of events, and how they get to the gateway.
 *
 * Every event is an item of its own in local storage, under the id of the tab that added it, so that tabs add events at the same
 * time without waiting for each other. A tab sends its own events, and those of tabs that have ended: it holds a lock (Web Locks)
 * for each of them. One lock for all tabs would not do: a tab sees another one's changes of the storage only some time after the
 * lock was free.
 *
 * An event is removed when the gateway has appended it or rejected it for good. So an event whose answer got lost is sent again,
 * with the same id, and the fold drops the second one (contract section 3, Duplicates).
 */

import type { Store } from "./storage.js";
import { byteLength } from "./values.js";
import { newId } from "./visitors.js";
import { backOffMs, safely, warn } from "./safely.js";

/** An enum, because its numbers are written into the code: the script is smaller. */
const enum Limit {
  EVENTS = 100,
  /** Browsers send at most 64 KiB after the end of a page (Fetch, keepalive); `sentAt` has to fit too. */
  BYTES = 48 * 1024,
  /** So many page views wait while the gateway cannot be reached. Identities and metadata wait without a limit. */
  WAITING = 500,
  GATHER_MS = 100,
  ANSWER_MS = 20_000,
  LONGEST_TOLD_MS = 3_600_000,
}

export type Event = { type: string; id: string; at: string; visitorId: string } & Record<string, unknown>;

interface Rejected {
  index: number;
  detail: string;
}

export class Sender {
  readonly #store: Store;
  readonly #prefix: string;
  readonly #url: string;
  readonly #onRejected: (event: Event) => void;
  /** The id of this tab, and of all tabs whose events this one sends. */
  #tab = "";
  #held = new Set<string>();
  #left = Promise.resolve();
  #release = () => {};
  readonly #inFlight = new Set<string>();
  #running: Promise<boolean> | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #failures = 0;
  #most: number = Limit.EVENTS;
  /** The end of the newest item's name: microseconds since 1970, and always 16 digits. */
  #order = 0;
  #stopped = false;

  constructor(store: Store, prefix: string, url: string, onRejected: (event: Event) => void) {
    this.#store = store;
    this.#prefix = prefix;
    this.#onRejected = onRejected;
    this.#url = url;
    addEventListener("online", () => {
      this.#wait(0);
      void this.flush();
    });
    addEventListener("pageshow", ({ persisted }) => {
      if (persisted) this.#enter();
    });
    addEventListener("pagehide", () => this.#leave());
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) void this.flush(); // a phone may end the page without another event
    });
    this.#enter();
  }

  /** Add an event. Returns whether it outlives the page. */
  add(event: Event): boolean {
    const data = JSON.stringify(event);
    const isExtra = event.type === "VisitorSeen" && this.#waiting().length >= Limit.WAITING;
    if (isExtra || byteLength(data) > Limit.BYTES) {
      warn("not sent: too large, or too many page views wait:", event);
      return true;
    }
    this.#order = Math.max(this.#order + 1, Date.now() * 1000);
    const kept = this.#store.set(this.#name(this.#tab) + this.#order, data);
    this.#soon(Limit.GATHER_MS);
    return kept;
  }

  /** Send what waits. Resolves to whether everything has arrived. */
  flush(): Promise<boolean> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#running ??= this.#drain().then((done) => {
      this.#running = undefined;
      if ([...this.#held].some((tab) => this.#waiting(tab).length)) this.#soon(Math.max(Limit.GATHER_MS, this.#waitMs()));
      return done;
    });
    return this.#running;
  }

  /** Send nothing any more. */
  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  #soon(ms: number): void {
    if (!this.#stopped) this.#timer ??= setTimeout(() => void this.flush(), ms);
  }

  /** The page begins, or comes back from the back/forward cache: other tabs may have sent its events meanwhile. */
  #enter(): void {
    this.#left = new Promise((resolve) => (this.#release = resolve));
    this.#tab = newId();
    this.#held = new Set([this.#tab]);
    void this.#hold(this.#tab);
    if (this.#waiting().length) this.#soon(0);
  }

  /** The page ends: nothing can be waited for. Without locks it may go into the back/forward cache. */
  #leave(): void {
    let names = this.#waiting(this.#tab);
    if (!this.#stopped && !this.#waitMs())
      for (let batch = this.#batch(names); batch.length; batch = this.#batch(names)) {
        void this.#post(batch);
        names = names.filter((name) => !batch.includes(name));
      }
    this.#release();
  }

  /** Hold the lock of a tab until the page ends. Resolves to whether it was free. */
  #hold(tab: string): Promise<boolean> {
    return new Promise((resolve) => {
      // Without TLS there are no locks, and where cookies are blocked none is granted, but there is no other tab's event either.
      if (!navigator.locks) return resolve(true);
      const held = navigator.locks.request(this.#prefix + tab, { ifAvailable: true }, (lock) => {
        resolve(!!lock);
        return lock ? this.#left : undefined;
      });
      held.catch(() => resolve(true));
    });
  }

  async #drain(): Promise<boolean> {
    const tabs = new Set(this.#waiting().map((name) => name.split(".").at(-2)!));
    tabs.delete(this.#tab);
    for (const tab of [...tabs, this.#tab]) {
      if (!this.#held.has(tab) && !(await this.#hold(tab))) continue;
      this.#held.add(tab);
      for (let batch = this.#batch(this.#waiting(tab)); batch.length; batch = this.#batch(this.#waiting(tab)))
        if (this.#stopped || this.#waitMs() || !(await this.#post(batch))) return false;
    }
    return !this.#inFlight.size;
  }

  /** The beginning of the names of a tab's items, or of all tabs'. */
  #name(tab = ""): string {
    return `${this.#prefix}.unsent.${tab && `${tab}.`}`;
  }

  #waiting(tab?: string): string[] {
    return this.#store.names(this.#name(tab));
  }

  /** The first of these items that fit into one request. */
  #batch(names: string[]): string[] {
    const batch: string[] = [];
    let bytes = 0;
    for (const name of names) {
      if (this.#inFlight.has(name)) continue;
      bytes += byteLength(this.#store.get(name) ?? "");
      if (batch.length >= this.#most || (bytes > Limit.BYTES && batch.length)) break;
      batch.push(name);
    }
    return batch;
  }

  /** Send items in one request. Returns whether to go on with the next ones. */
  async #post(names: string[]): Promise<boolean> {
    const events: Event[] = [];
    const sent: string[] = [];
    for (const name of names) {
      const event = safely(() => JSON.parse(this.#store.get(name)!) as Event | null);
      if (event) {
        events.push({ ...event, sentAt: new Date().toISOString() });
        sent.push(name);
      } else this.#done([name]); // it was damaged
    }
    if (!sent.length) return true;
    for (const name of sent) this.#inFlight.add(name);
    try {
      const body = JSON.stringify(events);
      // A simple request (Fetch, CORS): no preflight, so that it also works while the page ends.
      if (document.hidden && !("keepalive" in Request.prototype)) {
        navigator.sendBeacon(this.#url, body);
        return false;
      }
      const signal = AbortSignal.timeout?.(Limit.ANSWER_MS) ?? null;
      const answer = await fetch(this.#url, { method: "POST", body, keepalive: true, credentials: "omit", signal });
      return await this.#answered(answer, sent, events);
    } catch {
      return this.#failed();
    } finally {
      for (const name of sent) this.#inFlight.delete(name);
    }
  }

  async #answered(answer: Response, sent: string[], events: Event[]): Promise<boolean> {
    const { status } = answer;
    if (status === 202) {
      const { rejected } = (await answer.json()) as { rejected: Rejected[] };
      for (const { index, detail } of rejected) {
        warn(detail, events[index]);
        this.#onRejected(events[index]!);
      }
      this.#failures = 0;
      this.#most = Limit.EVENTS;
      this.#done(sent);
      return true;
    }
    warn(await answer.text());
    if (![400, 413, 422].includes(status)) return this.#failed(answer.headers.get("Retry-After"));
    // The gateway takes none of them. Find the one that it does not take.
    this.#most = Math.max(1, sent.length >> 1);
    if (sent.length === 1) {
      this.#onRejected(events[0]!);
      this.#done(sent);
    }
    return true;
  }

  #done(sent: string[]): void {
    sent.forEach((name) => this.#store.remove(name));
  }

  #failed(retryAfter?: string | null): false {
    const told = Number(`${retryAfter}`) * 1000 || Date.parse(`${retryAfter}`) - Date.now();
    this.#wait(Date.now() + (told > 0 ? Math.min(told, Limit.LONGEST_TOLD_MS) : backOffMs(this.#failures)));
    this.#failures++;
    return false;
  }

  /** All tabs wait, also those that are opened later. */
  #wait(until: number): void {
    this.#store.set(`${this.#prefix}.wait`, `${until}`);
  }

  #waitMs(): number {
    const ms = Number(this.#store.get(`${this.#prefix}.wait`)) - Date.now();
    return ms > Limit.LONGEST_TOLD_MS ? 0 : Math.max(0, ms); // the clock was set back
  }
}
