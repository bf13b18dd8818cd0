/** Who the visitor of this browser is, and what of it the gateway has been told. */

import { hash } from "./hash.js";
import { type Store, readCookie, writeCookie } from "./storage.js";
import { safely } from "./safely.js";

/**
 * What local storage holds, as JSON. It holds hashes rather than values: the next user of a shared browser may read it.
 * The cookie has the visitor's id and, once the visitor is identified, a dot and `externalId`: it may be shared by subdomains.
 */
export interface Known {
  id: string;
  /** Hashes of the external id and of the address that were sent. */
  externalId?: string | undefined;
  email?: string | undefined;
  /** A hash for each value that was sent: `name`, `image` and `metadata.<key>`. */
  values: Record<string, string>;
}

const COOKIE = /^(v_[\w-]{22})(?:\.([0-9a-f]{32}))?$/;

export function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return btoa(String.fromCharCode(...bytes)).replace(/\+/g, "-").replace(/\//g, "_").slice(0, 22);
}

/** The canonical JSON (RFC 8785) of a primitive is what `JSON.stringify` makes of it. */
export const digest = (visitorId: string, name: string, value: unknown) =>
  hash(`${visitorId}\0${name}\0${JSON.stringify(value)}`);

export class Visitors {
  #own: Known | undefined;
  readonly #store: Store;
  readonly #name: string;
  readonly #domain: string | undefined;

  constructor(
    store: Store,
    name: string,
    domain: string | undefined,
  ) {
    this.#store = store;
    this.#name = name;
    this.#domain = domain;
  }

  /**
   * The visitor of this tab. If another tab has logged out since, a tab that has identified somebody goes on speaking of that
   * person. Any other tab follows.
   */
  current(): Known {
    const stored = this.#stored();
    const own = this.#own;
    if (!stored) return own ?? this.renew();
    if (!own) this.#write(stored); // browsers forget the cookie some time after it was written
    return !own || stored.id === own.id || !(own.externalId || own.email) ? (this.#own = stored) : own;
  }

  /** The visitor to identify as `externalId` and `email`: another one if this tab's has been identified as somebody else. */
  identified(externalId: string | undefined, email: string | undefined): Known {
    const isOther = (known: Known) => {
      const was = (name: "externalId" | "email", value: string | undefined) =>
        known[name] && value ? known[name] === digest(known.id, name, value) : undefined;
      return (was("externalId", externalId) ?? was("email", email)) === false;
    };
    const own = this.current();
    if (!isOther(own)) return own;
    const stored = this.#stored();
    if (stored && stored.id !== own.id && !isOther(stored)) return (this.#own = stored); // another tab was here first
    return this.renew();
  }

  renew(): Known {
    const known = { id: `v_${newId()}`, values: {} };
    this.#write(known);
    return (this.#own = known);
  }

  /** Keep what was sent of the current visitor; until the page ends, unless the event itself is stored. */
  keep(known: Known, isStored: boolean): void {
    const stored = this.#stored();
    this.#own = known;
    if (stored && stored.id !== known.id) return; // another tab has another visitor
    if (isStored) this.#write(known);
    else this.#store.hold(this.#name, JSON.stringify(known));
  }

  #write(known: Known): void {
    this.#store.set(this.#name, JSON.stringify(known));
    writeCookie(this.#name, known.id + (known.externalId ? `.${known.externalId}` : ""), this.#domain);
  }

  #stored(): Known | undefined {
    const read = safely(() => JSON.parse(this.#store.get(this.#name) ?? "null") as Known | null);
    const known = read?.values && COOKIE.test(read.id) ? read : undefined;
    const [, id, externalId] = COOKIE.exec(readCookie(this.#name)) ?? [];
    return !id || id === known?.id ? known : { id, externalId, values: {} };
  }
}
