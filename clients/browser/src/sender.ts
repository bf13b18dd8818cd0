/**
 * The queue of events, and how they get to the gateway.
 *
 * Every event is an item of its own in local storage, so that tabs can add events at the same time without a lock. An event is
 * removed when the gateway has appended it or rejected it for good. So an event whose answer got lost is sent again, with the
 * same id, and the fold drops the second one (contract section 3, Duplicates).
 */

import type { Store } from "./storage.js";
import { byteLength } from "./values.js";
import { safely, warn } from "./warn.js";

const MAX_EVENTS = 100;
/** Browsers send at most 64 KiB after the end of a page (Fetch, keepalive); `sentAt` has to fit too. */
const MAX_BYTES = 48 * 1024;
/** So many page views wait while the gateway cannot be reached. Identities and metadata wait without a limit. */
const MAX_WAITING = 500;
const GATHER_MS = 100;
const ANSWER_MS = 20_000;
const FIRST_WAIT_MS = 1_000;
const LONGEST_WAIT_MS = 300_000;
const LONGEST_TOLD_MS = 3_600_000;

export type Event = { type: string; id: string; at: string; visitorId: string } & Record<string, unknown>;

interface Rejected {
  index: number;
  detail: string;
}

export class Sender {
  readonly #unsent: string;
  readonly #waitName: string;
  readonly #url: string;
  /** The items that this tab has added: those it sends when the page ends. */
  readonly #own = new Set<string>();
  readonly #inFlight = new Set<string>();
  #running: Promise<boolean> | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #failures = 0;
  #most = MAX_EVENTS;
  #added = 0;
  #stopped = false;
  readonly #store: Store;
  readonly #prefix: string;
  readonly #onRejected: (event: Event) => void;

  constructor(
    store: Store,
    prefix: string,
    host: string,
    key: string,
    onRejected: (event: Event) => void,
  ) {
    this.#store = store;
    this.#prefix = prefix;
    this.#onRejected = onRejected;
    this.#unsent = `${prefix}.unsent.`;
    this.#waitName = `${prefix}.wait`;
    this.#url = `${host}/v1/events?partial=true&writeKey=${encodeURIComponent(key)}`;
    addEventListener("online", () => {
      this.#wait(0);
      void this.flush();
    });
    addEventListener("pagehide", () => this.#leave());
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "hidden") this.#leave();
    });
    if (this.#waiting().length) this.#soon(0);
  }

  /** Add an event. Returns whether it outlives the page. */
  add(event: Event): boolean {
    const data = JSON.stringify(event);
    const isExtra = event.type === "VisitorSeen" && this.#waiting().length >= MAX_WAITING;
    if (isExtra || byteLength(data) > MAX_BYTES) {
      warn("not sent: too large, or too many page views wait:", event);
      return true;
    }
    // Sorted by time, then by number. Two tabs differ in the end of the event's random id.
    const order = Date.now().toString(36).padStart(9, "0") + (this.#added++).toString(36).padStart(4, "0");
    const name = this.#unsent + order + event.id.slice(-6);
    this.#own.add(name);
    const kept = this.#store.set(name, data);
    this.#soon(GATHER_MS);
    return kept;
  }

  /** Send what waits. Resolves to whether everything has arrived. */
  flush(): Promise<boolean> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#running ??= this.#alone(() => this.#drain())
      .catch((error: unknown) => {
        warn(error);
        return false;
      })
      .then((done) => {
        this.#running = undefined;
        if (this.#waiting().length) this.#soon(Math.max(GATHER_MS, this.#waitMs()));
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

  /** One tab sends at a time. Without locks (a page without TLS) several may send an event, and the fold takes one. */
  #alone(action: () => Promise<boolean>): Promise<boolean> {
    return navigator.locks ? navigator.locks.request(this.#prefix, action) : action();
  }

  async #drain(): Promise<boolean> {
    for (;;) {
      const batch = this.#batch(this.#waiting());
      if (!batch.length || this.#stopped) return !this.#inFlight.size;
      if (this.#waitMs() > 0 || !(await this.#post(batch))) return false;
    }
  }

  /** When the page ends, nothing can wait for the lock: this tab sends its own events, another one sends its. */
  #leave(): void {
    if (this.#stopped || this.#waitMs() > 0) return;
    let names = [...this.#own].sort();
    for (let batch = this.#batch(names); batch.length; batch = this.#batch(names)) {
      void this.#post(batch);
      names = names.filter((name) => !batch.includes(name));
    }
  }

  #waiting(): string[] {
    return this.#store.names(this.#unsent);
  }

  /** The first of these items that fit into one request. */
  #batch(names: string[]): string[] {
    const batch: string[] = [];
    let bytes = 0;
    for (const name of names) {
      if (this.#inFlight.has(name)) continue;
      bytes += byteLength(this.#store.get(name) ?? "");
      if (batch.length >= this.#most || (bytes > MAX_BYTES && batch.length)) break;
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
      } else this.#done([name]); // another tab has sent it, or it was damaged
    }
    if (!sent.length) return true;
    for (const name of sent) this.#inFlight.add(name);
    try {
      const body = JSON.stringify(events);
      // A simple request (Fetch, CORS): no preflight, so that it also works while the page ends.
      if (document.visibilityState === "hidden" && !("keepalive" in Request.prototype)) {
        navigator.sendBeacon(this.#url, body);
        return false;
      }
      const signal = AbortSignal.timeout?.(ANSWER_MS) ?? null;
      const answer = await fetch(this.#url, { method: "POST", body, keepalive: true, credentials: "omit", signal });
      return await this.#answered(answer, sent, events);
    } catch {
      return this.#failed(null);
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
      this.#most = MAX_EVENTS;
      this.#done(sent);
      return true;
    }
    warn(await answer.text());
    if (status !== 400 && status !== 413 && status !== 422) return this.#failed(answer.headers.get("Retry-After"));
    // The gateway takes none of them. Find the one that it does not take.
    this.#most = Math.max(1, sent.length >> 1);
    if (sent.length === 1) {
      this.#onRejected(events[0]!);
      this.#done(sent);
    }
    return true;
  }

  #done(sent: string[]): void {
    for (const name of sent) {
      this.#store.remove(name);
      this.#own.delete(name);
    }
  }

  #failed(retryAfter: string | null): false {
    const told = Number(retryAfter ?? NaN) * 1000 || Date.parse(retryAfter ?? "") - Date.now();
    const backOff = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** this.#failures++) * (0.5 + Math.random() / 2);
    this.#wait(Date.now() + (told > 0 ? Math.min(told, LONGEST_TOLD_MS) : backOff));
    return false;
  }

  /** All tabs wait, also those that are opened later. */
  #wait(until: number): void {
    if (until) this.#store.set(this.#waitName, `${until}`);
    else this.#store.remove(this.#waitName);
  }

  #waitMs(): number {
    const ms = Number(this.#store.get(this.#waitName)) - Date.now();
    return ms > LONGEST_TOLD_MS ? 0 : Math.max(0, ms); // the clock was set back
  }
}
