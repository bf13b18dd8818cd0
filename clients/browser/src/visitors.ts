/** Who the visitor of this browser is, and what of it the gateway has been told. */

import { hash } from "./hash.js";
import { cookies, hold, read, write, writeCookie } from "./storage.js";

/**
 * What local storage holds. It holds hashes rather than values: the next user of a shared browser may read it.
 * The cookie has `id`, `externalId` and `email`, with dots between them: it may be shared by subdomains.
 */
export interface Known {
  id: string;
  /**
   * Hashes of the external id and of the address that the page has passed for this visitor, even if the gateway has rejected them
   * since. A person with another one is another visitor.
   */
  externalId?: string | undefined;
  email?: string | undefined;
  /** What was sent, and not rejected: a hash and a time for each of `externalId`, `email`, `name`, `image` and `metadata.<key>`. */
  sent: Record<string, [hash: string, at: number]>;
}

export interface Ids {
  externalId?: string | undefined;
  email?: string | undefined;
}

const NAMES = ["externalId", "email"] as const;

export function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return btoa(String.fromCharCode(...bytes)).replace(/\W/g, "_").slice(0, 22);
}

/** The canonical JSON (RFC 8785) of a primitive is the result of `JSON.stringify`. Case does not count in addresses. */
export const digest = (visitorId: string, name: string, value: unknown) =>
  hash(`${visitorId}\0${name}\0${JSON.stringify(name === "email" ? `${value}`.toLowerCase() : value)}`);

export type Visitors = ReturnType<typeof openVisitors>;

/** `cookie` is the cookie's name, and `item` that of the item in the storage. */
export function openVisitors(cookie: string, item: string, domain: string | undefined) {
  const pattern = new RegExp(`(?:^| )${cookie}=(v_[\\w-]{22})\\.(\\w*)\\.(\\w*)`, "g");

  const stored = (): Known | undefined => {
    const known = read(item) as Known | null | undefined;
    // The last one, if a site has changed `domain`: it is the newest.
    const [, id, externalId, email] = [...cookies().matchAll(pattern)].pop() ?? [];
    return id ? { sent: {}, ...(known?.id === id && known), id, externalId, email } : known?.sent && known;
  };

  const store = (known: Known, isKept = true): Known => {
    (isKept ? write : hold)(item, JSON.stringify(known));
    writeCookie(cookie, `${known.id}.${known.externalId ?? ""}.${known.email ?? ""}`, domain);
    return known;
  };

  const fresh = () => ({ id: `v_${newId()}`, sent: {} });

  let own: Known = store(stored() ?? fresh()); // also a known one: browsers forget the cookie some time after it was written

  const renew = () => (own = store(fresh()));

  /**
   * The visitor of this tab. If another tab has logged out since, a tab that has identified somebody goes on speaking of that
   * person. Any other tab follows.
   */
  const current = (): Known => {
    const known = stored() ?? own;
    if (known.id === own.id || !(own.externalId || own.email)) own = known;
    return own;
  };

  return {
    current,
    renew,

    /**
     * The visitor to identify: another one if this tab's has been identified as somebody else. Somebody else has another external
     * id; where only one of the two has an external id, another address, or an unknown one.
     */
    identified(ids: Ids): Known {
      const isOther = (known: Known) => {
        for (const name of NAMES) if (known[name] && ids[name]) return known[name] !== digest(known.id, name, ids[name]);
        return known.externalId || known.email;
      };
      let known = current();
      if (isOther(known)) {
        const other = stored();
        known = other && !isOther(other) ? other : renew(); // another tab was here first
      }
      own = { ...known };
      for (const name of NAMES) if (ids[name]) own[name] = digest(known.id, name, ids[name]);
      return own;
    },

    /** Keep what was sent of the current visitor; until the page ends, unless the event itself is stored. */
    keep(known: Known, isStored: boolean): void {
      own = known;
      if ((stored() ?? known).id === known.id) store(known, isStored); // else another tab has another visitor
    },
  };
}
