/** The calls of a page, while this browser may be followed. */

import { live } from "./live.js";
import { watchPages } from "./pages.js";
import { type Event, Sender } from "./sender.js";
import { openStore, writeCookie } from "./storage.js";
import type { Contact, Identity, Metadata, Options, Visitor } from "./types.js";
import { text, values } from "./values.js";
import { type Known, Visitors, digest, newId } from "./visitors.js";
import { warn } from "./safely.js";

type Fields = Record<string, unknown>;

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
        if (shown) this.#show(this.visitor.id, combined(this.visitor.contact, shown));
      })
    : undefined;

  constructor(
    options: Options,
    name: string,
    changed: () => void,
  ) {
    this.#options = options;
    this.#changed = changed;
    const store = openStore();
    this.#visitors = new Visitors(store, name, options.domain);
    this.#sender = new Sender(store, name, this.#url("events", "partial=true"), (event) => this.#rejected(event));
    this.#show(this.#visitors.current().id, null);
  }

  watch(): void {
    watchPages(() => this.page(Date.now()));
  }

  page(at: number): void {
    const url = this.#address(location.href);
    const context: Fields = {
      url,
      referrer: this.#address(this.#referrer),
      title: document.title,
      userAgent: navigator.userAgent,
      locale: navigator.language,
      timezone: Intl.DateTimeFormat().resolvedOptions().timeZone,
    };
    for (const each in context) context[each] = text(context[each])?.slice(0, 2000);
    this.#referrer = location.href;
    this.#send("VisitorSeen", this.#follow(), at, { context });
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
    const compared = email?.toLowerCase();
    const known = this.#visitors.identified(externalId, compared);
    const fields = { externalId, email, name, image, metadata: some(metadata), token: token ?? undefined };
    const ids = { externalId: known.externalId, email: known.email };
    if (externalId) ids.externalId = digest(known.id, "externalId", externalId);
    if (compared) ids.email = digest(known.id, "email", compared);
    const { changed, digests } = news(known, { name, image, metadata });
    if (ids.externalId === known.externalId && ids.email === known.email) this.#say("MetadataSet", known, at, changed, digests);
    else if (!this.#refused.has(claim(fields))) this.#say("VisitorIdentified", known, at, fields, digests, ids);
    const before = this.visitor.id === known.id ? this.visitor.contact : null;
    this.#show(known.id, combined(before, { externalId, email, name, image, metadata }));
  }

  setMetadata(given: Metadata, at: number): void {
    const metadata = values(given);
    const known = this.#follow();
    const { changed, digests } = news(known, { metadata });
    this.#say("MetadataSet", known, at, changed, digests);
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
  #say(type: string, known: Known, at: number, fields: Fields, digests: Known["values"], ids: Partial<Known> = {}): void {
    if (type === "MetadataSet" && !Object.keys(digests).length) return;
    const isStored = this.#send(type, known, at, fields);
    this.#visitors.keep({ ...known, ...ids, values: { ...known.values, ...digests } }, isStored);
  }

  #send(type: string, known: Known, at: number, fields: Fields): boolean {
    return this.#sender.add({ type, id: newId(), at: new Date(at).toISOString(), visitorId: known.id, ...fields });
  }

  /** What the gateway has rejected was not said: a later call says it again, but not with the same token. */
  #rejected(event: Event): void {
    const known = this.#visitors.current();
    if (known.id !== event.visitorId) return;
    const values = { ...known.values };
    const names = Object.keys((event.metadata as object | undefined) ?? {}).map((key) => `metadata.${key}`);
    for (const name of ["name", "image", ...names]) delete values[name];
    const kept: Known = { ...known, values };
    if (event.type === "VisitorIdentified") {
      this.#refused.add(claim(event));
      delete kept.externalId;
      delete kept.email;
    }
    this.#visitors.keep(kept, true);
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

  #url(path: string, query: string): string {
    const { host, key } = this.#options;
    return `${host.replace(/\/+$/, "")}/v1/${path}?${query}&writeKey=${encodeURIComponent(key)}`;
  }

  #address(url: string): string {
    return url.split("#")[0]!.split(this.#options.query ? "#" : "?")[0]!;
  }
}

/** Remove what this page or an earlier one has stored. */
export function forget(name: string, domain: string | undefined): void {
  const store = openStore();
  for (const each of [name, ...store.names(`${name}.`)]) store.remove(each);
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

/** Which of the fields were not sent before, each with its digest. */
function news(known: Known, { name, image, metadata }: Profile): { changed: Fields; digests: Record<string, string> } {
  const digests: Record<string, string> = {};
  const isNew = (key: string, value: unknown) => {
    const made = digest(known.id, key, value);
    return known.values[key] !== made && !!(digests[key] = made);
  };
  const patch = Object.entries(metadata ?? {}).filter(([key, value]) => isNew(`metadata.${key}`, value));
  const changed: Fields = { metadata: some(Object.fromEntries(patch)) };
  if (name && isNew("name", name)) changed.name = name;
  if (image && isNew("image", image)) changed.image = image;
  return { changed, digests };
}

/** A contact, with what the page or the gateway says of it. */
const combined = (contact: Contact | null, { metadata, ...fields }: Profile): Contact => ({
  ...contact,
  ...Object.fromEntries(Object.entries(fields).filter(([, value]) => value)),
  metadata: { ...contact?.metadata, ...metadata },
});

const some = <T extends object>(fields: T) => (Object.keys(fields).length ? fields : undefined);
