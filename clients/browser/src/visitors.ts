/** Who the visitor of this browser is, and what of it the gateway has been told. */

import { hash } from "./hash.js";
import { type Store, readCookie, writeCookie } from "./storage.js";
import { safely } from "./safely.js";

/**
 * What local storage holds, as JSON. It holds hashes rather than values: the next user of a shared browser may read it.
 * The cookie has `id`, `externalId` and `email`, with dots between them: it may be shared by subdomains.
 */
export interface Known {
  id: string;
  /**
   * Hashes of the external id and of the address that the page has passed for this visitor, also if the gateway has rejected them
   * since. A person with another one is another visitor.
   */
  externalId?: string | undefined;
  email?: string | undefined;
  /** What was sent, and not rejected: a hash and a time for each of `externalId`, `email`, `name`, `image` and `metadata.<key>`. */
  sent: Record<string, [hash: string, at: number]>;
}

const COOKIE = /^(v_[\w-]{22})\.(\w*)\.(\w*)$/;

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
  readonly #cookie: string;
  readonly #name: string;
  readonly #domain: string | undefined;

  /** `cookie` is the cookie's name, and `name` that of the item in the storage. */
  constructor(store: Store, cookie: string, name: string, domain: string | undefined) {
    this.#store = store;
    this.#cookie = cookie;
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

  /**
   * The visitor to identify as `externalId` and `email`: another one if this tab's has been identified as somebody else. Somebody
   * else has another external id; where only one of the two has an external id, another address, or an unknown one.
   */
  identified(externalId: string | undefined, email: string | undefined): Known {
    const isOther = (known: Known) => {
      const is = (name: "externalId" | "email", value: string | undefined) =>
        known[name] && value ? known[name] !== digest(known.id, name, value) : undefined;
      return is("externalId", externalId) ?? is("email", email) ?? !!(known.externalId || known.email);
    };
    let known = this.current();
    if (isOther(known)) {
      const stored = this.#stored();
      known = stored && stored.id !== known.id && !isOther(stored) ? stored : this.renew(); // another tab was here first
    }
    this.#own = { ...known };
    if (externalId) this.#own.externalId = digest(known.id, "externalId", externalId);
    if (email) this.#own.email = digest(known.id, "email", email);
    return this.#own;
  }

  renew(): Known {
    const known = { id: `v_${newId()}`, sent: {} };
    this.#write(known);
    return (this.#own = known);
  }

  /** Keep what was sent of the current visitor; until the page ends, unless the event itself is stored. */
  keep(known: Known, isStored: boolean): void {
    const stored = this.#stored();
    this.#own = known;
    if (stored && stored.id !== known.id) return; // another tab has another visitor
    this.#write(known, isStored);
  }

  #write(known: Known, isStored = true): void {
    this.#store[isStored ? "set" : "hold"](this.#name, JSON.stringify(known));
    writeCookie(this.#cookie, `${known.id}.${known.externalId ?? ""}.${known.email ?? ""}`, this.#domain);
  }

  #stored(): Known | undefined {
    const read = safely(() => JSON.parse(this.#store.get(this.#name) ?? "null") as Known | null);
    const known = read?.sent && COOKIE.test(`${read.id}..`) ? read : undefined;
    const [, id, externalId, email] = COOKIE.exec(readCookie(this.#cookie)) ?? [];
    if (!id) return known;
    const same = id === known?.id ? known : undefined;
    return { id, sent: {}, ...same, externalId: externalId || same?.externalId, email: email || same?.email };
  }
}
