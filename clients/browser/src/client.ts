/** The calls of a page, while this browser may be followed. */

import { hash } from "./hash.js";
import { type Shown, live } from "./live.js";
import { type Event, Sender } from "./sender.js";
import { openStore, writeCookie } from "./storage.js";
import type { Contact, Identity, Metadata, Options, Visitor } from "./types.js";
import { text, values } from "./values.js";
import { type Known, Visitors, digest, newId } from "./visitors.js";
import { warn } from "./safely.js";

type Fields = Record<string, unknown>;

/** After a denial, an item with this end of its name tells other tabs. */
export const DENIED = ".denied";

/** So long an unchanged identity is not sent again. Later it is: the gateway may have lost or erased it meanwhile. */
const IDENTITY_MS = 86_400_000;
/** So long an unchanged `setMetadata` is not sent again. Later it is: somebody else may have changed the value meanwhile. */
const METADATA_MS = 10_000;

export class Client {
  visitor!: Visitor;
  readonly #sender: Sender;
  readonly #visitors: Visitors;
  #referrer = document.referrer;
  /** The identities that the gateway has rejected since the page was loaded: they are not sent again. */
  readonly #refused = new Set<string>();
  readonly #options: Options;
  readonly #changed: () => void;
  readonly #live = LIVE
    ? live((shown) => {
        if (!shown) return;
        const known = this.#visitors.current();
        this.#visitors.keep({ ...known, sent: doubted(known, shown) }, true);
        this.#show(this.visitor.id, combined(this.visitor.contact, shown));
      })
    : undefined;

  constructor(options: Options, name: string, changed: () => void) {
    this.#options = options;
    this.#changed = changed;
    const store = openStore();
    const { key } = options;
    const host = this.#url("");
    // What was sent to one gateway is news to another one. The visitor, in the cookie, is the same; so are its events for all keys.
    this.#visitors = new Visitors(store, name, `${name}.${hash(host + key)}`, options.domain);
    this.#sender = new Sender(store, `${name}.${hash(host)}`, this.#url("events", "partial=true"), (event) => this.#rejected(event));
    this.#show(this.#visitors.current().id, null);
  }

  page(at: number): void {
    const { href } = location;
    const context: Fields = {};
    const set = (name: string, value: string) => (context[name] = text(value?.slice(0, 2000)));
    const title = () => set("title", document.title);
    set("url", this.#address(href));
    set("referrer", this.#address(this.#referrer));
    title();
    set("userAgent", navigator.userAgent);
    set("locale", navigator.language);
    set("timezone", Intl.DateTimeFormat().resolvedOptions().timeZone);
    this.#referrer = href;
    // Applications set the title after the URL.
    this.#send("VisitorSeen", this.#follow(), at, { context }, () => location.href === href && title());
  }

  identify(identity: Identity, at: number): void {
    const { externalId: id, email: address, name: called, image: shown, metadata: given, token, ...unknown } = identity;
    const [externalId, email, name, image] = [id, address, called, shown].map(text);
    const metadata = values(given);
    if (!externalId && !email) {
      warn("identify: expected an externalId or an email, got", identity);
      return;
    }
    for (const field in unknown) warn("identify: expected no", field);
    const ids = { externalId, email: email?.toLowerCase() };
    const known = this.#visitors.identified(ids.externalId, ids.email);
    const fields = { externalId, email, name, image, metadata: some(metadata), token: token ?? undefined };
    // What waits may have a token that has expired.
    const tokens = token ? this.#sender.tokens(known.id) : [];
    const isDue = some(news(known, ids, at, IDENTITY_MS).sent) || (tokens.length && !tokens.includes(token));
    const { changed, sent } = news(known, { ...ids, name, image, metadata }, at, isDue ? 0 : Infinity);
    if (!isDue) this.#say("MetadataSet", known, at, changed, sent);
    else if (!this.#refused.has(claim(fields))) this.#say("VisitorIdentified", known, at, fields, sent);
    const before = this.visitor.id === known.id ? this.visitor.contact : null;
    this.#show(known.id, combined(before, { externalId, email, name, image, metadata }));
  }

  setMetadata(given: Metadata, at: number): void {
    const metadata = values(given);
    const known = this.#follow();
    const { changed, sent } = news(known, { metadata }, at, METADATA_MS);
    this.#say("MetadataSet", known, at, changed, sent);
    const { id, contact } = this.visitor;
    if (contact) this.#show(id, combined(contact, { metadata }));
  }

  reset(): void {
    this.#show(this.#visitors.renew().id, null);
  }

  flush(): Promise<boolean> {
    return this.#sender.flush();
  }

  stop(): void {
    this.#sender.stop();
    this.#live?.();
  }

  /** Send an event, unless it says nothing, and remember what it said. */
  #say(type: string, known: Known, at: number, fields: Fields, sent: Known["sent"]): void {
    if (!some(sent)) return;
    const isStored = this.#send(type, known, at, fields);
    this.#visitors.keep({ ...known, sent: { ...known.sent, ...(isStored !== undefined && sent) } }, isStored !== false);
  }

  #send(type: string, known: Known, at: number, fields: Fields, finish?: () => void): boolean | undefined {
    return this.#sender.add({ type, id: newId(), at: new Date(at).toISOString(), visitorId: known.id, ...fields }, finish);
  }

  /** What the gateway has rejected was not said: a later call says it again, but not with the same token. */
  #rejected(event: Event): void {
    if (event.type === "VisitorIdentified") this.#refused.add(claim(event));
    const known = this.#visitors.current();
    if (known.id !== event.visitorId) return;
    const sent = { ...known.sent };
    for (const name in { ...event, ...named(event.metadata) }) delete sent[name];
    this.#visitors.keep({ ...known, sent }, true);
  }

  /** The visitor of this tab, which may be another one since another tab logged out. */
  #follow(): Known {
    const known = this.#visitors.current();
    if (known.id !== this.visitor.id) this.#show(known.id, null);
    return known;
  }

  #show(id: string, contact: Contact | null): void {
    const before = this.visitor;
    if (JSON.stringify(before) === JSON.stringify({ id, contact })) return;
    this.visitor = { id, contact };
    this.#changed();
    if (LIVE && this.#options.live && before?.id !== id) this.#live?.(this.#url("own-contact", `visitorId=${id}`));
  }

  #url(path: string, query?: string): string {
    const { host, key } = this.#options;
    return `${host.replace(/\/+$/, "")}/v1/${path}` + (query ? `?${query}&writeKey=${encodeURIComponent(key)}` : "");
  }

  #address(url: string): string {
    return url.split("#")[0]!.split(this.#options.query ? "#" : "?")[0]!;
  }
}

/** Remove what this page or an earlier one has stored. */
export function forget(name: string, domain: string | undefined): void {
  const store = openStore();
  store.set(name + DENIED, "1");
  for (const each of store.names(`${name}.`)) store.remove(each);
  writeCookie(name, "", domain);
}

interface Profile {
  externalId?: string | undefined;
  email?: string | undefined;
  name?: string | null | undefined;
  image?: string | null | undefined;
  metadata?: Contact["metadata"];
}

/** What a token proves. */
const claim = ({ externalId, email, token }: Fields) => JSON.stringify([externalId, email, token]);

/** The metadata by the names under which it is remembered. */
const named = (metadata: unknown): Fields =>
  Object.fromEntries(Object.entries(metadata ?? {}).map(([key, value]) => [`metadata.${key}`, value]));

/** Which of the fields were not sent in the last `ms`, and what to remember of them. */
function news(known: Known, { metadata, ...fields }: Profile, at: number, ms: number): { changed: Fields; sent: Known["sent"] } {
  const sent: Known["sent"] = {};
  const isNew = (name: string, value: unknown) => {
    const made = digest(known.id, name, value);
    const [was, when] = known.sent[name] ?? [];
    return !(was === made && Math.abs(at - when!) < ms) && !!(sent[name] = [made, at]);
  };
  const only = (given: Fields, prefix = "") => Object.fromEntries(Object.entries(given).filter(([name, value]) => value !== undefined && isNew(prefix + name, value)));
  return { changed: { ...only(fields), metadata: some(only(metadata ?? {}, "metadata.")) }, sent };
}

/**
 * What was sent, so that `setMetadata` sends again what the gateway shows otherwise. `identify` does not: two pages that declare
 * different values would do so forever.
 */
function doubted({ id, sent }: Known, { metadata }: Shown): Known["sent"] {
  const shown = named(metadata);
  const isWrong = (name: string) => metadata && name.startsWith("metadata.") && sent[name]![0] !== digest(id, name, shown[name]);
  return Object.fromEntries(Object.entries(sent).map(([name, [was, at]]) => [name, [was, isWrong(name) ? 0 : at]]));
}

/** A contact, with what the page or the gateway says of it. */
const combined = (contact: Contact | null, { metadata, ...fields }: Profile): Contact => ({
  ...contact,
  ...Object.fromEntries(Object.entries(fields).filter(([, value]) => value)),
  metadata: { ...contact?.metadata, ...metadata },
});

const some = <T extends object>(fields: T) => (Object.keys(fields).length ? fields : undefined);
