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
  /** While so many events wait, page views are dropped. Identities and metadata wait without a limit. */
  WAITING = 500,
  GATHER_MS = 100,
  ANSWER_MS = 20_000,
  LONGEST_TOLD_MS = 3_600_000,
  /** So long after a tab has sent events, others leave them: they may have arrived, although the tab ended before the answer. */
  OTHERS_MS = 10_000,
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
  readonly #ended = new AbortController();
  #late: ReturnType<typeof setTimeout> | undefined;
  /** The newest page view, while it may get another title: its name, and what ends that. */
  #draft = "";
  #finish = () => {};

  constructor(store: Store, prefix: string, url: string, onRejected: (event: Event) => void) {
    this.#store = store;
    this.#prefix = prefix;
    this.#onRejected = onRejected;
    this.#url = url;
    const { signal } = this.#ended;
    addEventListener(
      "online",
      () => {
        this.#wait(0);
        void this.flush();
      },
      { signal },
    );
    addEventListener("pageshow", ({ persisted }) => persisted && this.#enter(), { signal });
    addEventListener("pagehide", () => this.#leave(), { signal });
    // A phone may end the page without another event.
    document.addEventListener("visibilitychange", () => document.hidden && void this.flush(), { signal });
    // Most answers come before the next page does, so that it need not send the events again.
    (window as { navigation?: EventTarget }).navigation?.addEventListener(
      "navigate",
      (event) => (event as NavigateEvent).destination.sameDocument || void this.flush(),
      { signal },
    );
    this.#enter();
  }

  /**
   * Add an event. Returns whether it outlives the page; undefined if it is not sent. Before it is sent, `finish` may change it.
   */
  add(event: Event, finish?: () => unknown): boolean | undefined {
    const data = JSON.stringify(event);
    const isExtra = event.type === "VisitorSeen" && this.#waiting().length >= Limit.WAITING;
    if (isExtra || byteLength(data) > Limit.BYTES) {
      warn("not sent: too large, or too many wait:", event);
      return undefined;
    }
    this.#order = Math.max(this.#order + 1, Date.now() * 1000);
    const name = this.#name(this.#tab) + this.#order;
    const kept = this.#store.set(name, data);
    if (finish) {
      this.#settle();
      this.#draft = name;
      this.#finish = () => {
        if (this.#store.get(this.#draft) && finish()) this.#store.set(name, JSON.stringify(event));
        this.#draft = "";
      };
    }
    this.#soon(Limit.GATHER_MS);
    return kept;
  }

  /** The tokens of the visitor's identities that wait for their answers. */
  tokens(visitorId: string): unknown[] {
    const waiting = this.#waiting().map((name) => this.#read(name));
    return waiting.filter((event) => event?.visitorId === visitorId && event.type === "VisitorIdentified").map((event) => event!.token);
  }

  #read(name: string): Event | undefined | null {
    return safely(() => JSON.parse(this.#store.get(name)!) as Event | null);
  }

  /** Send what waits. Resolves to whether nothing waits any more. */
  flush(): Promise<boolean> {
    this.#settle();
    this.#running ??= this.#drain().then((done) => {
      this.#running = undefined;
      if ([...this.#held].some((tab) => this.#waiting(tab).length)) this.#soon(Math.max(Limit.GATHER_MS, this.#waitMs()));
      return done;
    });
    return this.#running;
  }

  #settle(): void {
    this.#finish();
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  /** Send nothing any more. */
  stop(): void {
    this.#ended.abort();
    clearTimeout(this.#timer);
    clearTimeout(this.#late);
    this.#release();
  }

  get #stopped(): boolean {
    return this.#ended.signal.aborted;
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
    this.#finish();
    let names = this.#waiting(this.#tab);
    if (!this.#waitMs())
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
      if (!this.#held.has(tab)) {
        const lateMs = this.#lastMs(tab) + Limit.OTHERS_MS - Date.now();
        if (lateMs > 0 && lateMs <= Limit.OTHERS_MS) {
          this.#late ??= setTimeout(() => {
            this.#late = undefined;
            void this.flush();
          }, lateMs);
          continue;
        }
        if (!(await this.#hold(tab))) continue;
        this.#held.add(tab);
      }
      for (let batch = this.#batch(this.#waiting(tab)); batch.length; batch = this.#batch(this.#waiting(tab)))
        if (this.#stopped || this.#waitMs() || !(await this.#post(batch))) return false;
    }
    return !this.#inFlight.size;
  }

  /** When a tab last sent what still waits, as far as this one can know. */
  #lastMs(tab: string): number {
    // Without locks, a tab that still works looks like one that has ended until it sends.
    const addedMs = navigator.locks ? 0 : Number(this.#waiting(tab).at(-1)?.split(".").at(-1)) / 1000;
    return Math.max(addedMs, Number(this.#store.get(this.#mark(tab))));
  }

  #mark = (tab: string) => `${this.#prefix}.sent.${tab}`;

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
      if (this.#inFlight.has(name) || name === this.#draft) continue;
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
    const sentAt = new Date().toISOString(); // one for all: the gateway's correction of the clock keeps their distance
    for (const name of names) {
      const event = this.#read(name);
      if (event) {
        events.push({ ...event, sentAt });
        sent.push(name);
      } else this.#done([name]); // it was damaged
    }
    if (!sent.length) return true;
    for (const name of sent) this.#inFlight.add(name);
    const mark = this.#mark(sent[0]!.split(".").at(-2)!);
    this.#store.set(mark, `${Date.now()}`);
    try {
      const body = JSON.stringify(events);
      // A simple request (Fetch, CORS): no preflight, so that it also works while the page ends.
      const signal = AbortSignal.timeout?.(Limit.ANSWER_MS) ?? null;
      const answer = await fetch(this.#url, { method: "POST", body, keepalive: true, credentials: "omit", signal });
      return await this.#answered(answer, sent, events);
    } catch {
      return this.#failed();
    } finally {
      this.#store.remove(mark);
      for (const name of sent) this.#inFlight.delete(name);
    }
  }

  async #answered(answer: Response, sent: string[], events: Event[]): Promise<boolean> {
    const { status } = answer;
    if (status === 202) {
      const { rejected } = (await answer.json()) as { rejected: Rejected[] };
      for (const { index, detail } of rejected) this.#reject(events[index]!, detail);
      this.#failures = 0;
      this.#most = Limit.EVENTS;
      this.#done(sent);
      return true;
    }
    const detail = await answer.text();
    if (![400, 413, 422].includes(status)) {
      warn(detail);
      return this.#failed(answer.headers.get("Retry-After"));
    }
    // The gateway takes none of them. Find the one that it does not take.
    this.#most = Math.max(1, sent.length >> 1);
    if (sent.length === 1) {
      this.#reject(events[0]!, detail);
      this.#done(sent);
    }
    return true;
  }

  #reject(event: Event, detail: string): void {
    warn(detail, event);
    if (!this.#stopped) this.#onRejected(event);
    dispatchEvent(new CustomEvent("kinfold:rejected", { detail: { event, detail } }));
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
    if (!this.#stopped) this.#store.set(`${this.#prefix}.wait`, `${until}`);
  }

  #waitMs(): number {
    const ms = Number(this.#store.get(`${this.#prefix}.wait`)) - Date.now();
    return ms > Limit.LONGEST_TOLD_MS ? 0 : Math.max(0, ms); // the clock was set back
  }
}
