/** The calls of a page, while this browser may be followed. */

import { hash } from "./hash.js";
import { live } from "./live.js";
import { type Fields, type Profile, combined, doubted, news, some } from "./news.js";
import type { Event } from "./queue.js";
import { openSender } from "./sender.js";
import { names, remove, write, writeCookie } from "./storage.js";
import type { Contact, Identity, Metadata, Options, Visitor } from "./types.js";
import { text, values } from "./values.js";
import { type Known, newId, openVisitors } from "./visitors.js";
import { warn } from "./safely.js";

/** After a denial, an item with this end of its name tells other tabs. */
export const DENIED = ".denied";

/** After a day, an unchanged value is sent again: the gateway may have lost or erased it. */
const DAY_MS = 86_400_000;
/** In the seconds after a click or a key press, it is sent again after 10 s: another device may have changed it. */
const ACT_MS = 10_000;

export type Client = ReturnType<typeof follow>;

/** Follow the visitor of this browser. Every call has the time at which it was made, in ms since 1970. */
export function follow(options: Options, name: string, changed: () => void) {
  const { key, domain, query } = options;
  const host = `${options.host.replace(/\/+$/, "")}/v1/`;
  const address = (url: string) => url.split(query ? "#" : /[?#]/)[0]!;
  // What was sent to one gateway is news to another one. The visitor, in the cookie, is the same; so are its events for all keys.
  const visitors = openVisitors(name, `${name}.${hash(host + key)}`, domain);
  /** The identities that the gateway has rejected since the page was loaded: they are not sent again. */
  const refused = new Set<string>();
  let referrer = document.referrer;
  let visitor: Visitor;

  /** After a rejection, a later call says everything again, but not with the same token. */
  const sender = openSender(`${name}.${hash(host)}`, `${host}events?partial=true&writeKey=${key}`, (event) => {
    if (event.type === "VisitorIdentified") refused.add(claim(event));
    const known = visitors.current();
    if (known.id === event.visitorId) visitors.keep({ ...known, sent: {} }, true);
  });

  const updates = LIVE
    ? live((shown) => {
        if (!shown) return;
        const known = visitors.current();
        if (shown.metadata) visitors.keep({ ...known, sent: doubted(known, shown.metadata) }, true);
        show(visitor.id, combined(visitor.contact, shown));
      })
    : undefined;

  const show = (id: string, contact: Contact | null) => {
    const before = visitor;
    if (JSON.stringify(before) === JSON.stringify({ id, contact })) return;
    visitor = { id, contact };
    changed();
    if (LIVE && options.live && before?.id !== id) updates?.(`${host}own-contact?visitorId=${id}&writeKey=${key}`);
  };

  /** The visitor of this tab, which may be another one since another tab logged out. */
  const current = () => {
    const known = visitors.current();
    if (known.id !== visitor.id) show(known.id, null);
    return known;
  };

  const send = (type: string, known: Known, at: number, fields: Fields, change?: () => unknown) =>
    sender.add({ type, id: newId(), at: new Date(at).toISOString(), visitorId: known.id, ...fields }, change);

  /** Send what of a profile was not sent in the last `ms`, and remember it. */
  const say = (type: string, known: Known, at: number, profile: Profile, ms: number, token?: unknown) => {
    const { changed, sent } = news(known, profile, at, ms);
    if (!some(sent)) return;
    const isStored = send(type, known, at, { ...changed, token });
    visitors.keep({ ...known, sent: { ...known.sent, ...(isStored !== undefined && sent) } }, isStored !== false);
  };

  show(visitors.current().id, null);

  return {
    visitor: () => visitor,

    page(at: number): void {
      const { href } = location;
      const context: Fields = {};
      const set = (name: string, value: string) => (context[name] = text(value?.slice(0, 2000)));
      const title = () => set("title", document.title);
      set("url", address(href));
      set("referrer", address(referrer));
      title();
      set("userAgent", navigator.userAgent);
      set("locale", navigator.language);
      set("timezone", Intl.DateTimeFormat().resolvedOptions().timeZone);
      referrer = href;
      // Applications set the title after the URL.
      send("VisitorSeen", current(), at, { context }, () => location.href === href && title());
    },

    identify(at: number, identity: Identity): void {
      const { externalId: id, email: mail, name: called, image: shown, metadata, token, ...unknown } = identity;
      const [externalId, email, name, image] = [id, mail, called, shown].map(text);
      const ids = { externalId, email };
      const profile = { ...ids, name, image, metadata: values(metadata) };
      if (!externalId && !email) {
        warn("identify: expected an externalId or an email, got", identity);
        return;
      }
      for (const field in unknown) warn("identify: expected no", field);
      const known = visitors.identified(ids);
      // What waits may have a token that has expired.
      const isSame = (event?: Event | null) => event?.visitorId === known.id && event.type === "VisitorIdentified";
      const waiting = token ? sender.waiting().filter(isSame) : [];
      const isDue = some(news(known, ids, at, DAY_MS).sent) || (waiting.length && waiting.every((event) => event!.token !== token));
      if (!isDue) say("MetadataSet", known, at, profile, Infinity);
      else if (!refused.has(claim({ ...ids, token }))) say("VisitorIdentified", known, at, profile, 0, token ?? undefined);
      show(known.id, combined(visitor.id === known.id ? visitor.contact : null, profile));
    },

    setMetadata(at: number, given: Metadata): void {
      const metadata = values(given);
      const known = current();
      const ms = navigator.userActivation?.isActive === false ? DAY_MS : ACT_MS;
      // If any value is news, all are sent: another device may have changed the others.
      if (some(news(known, { metadata }, at, ms).sent)) say("MetadataSet", known, at, { metadata }, 0);
      if (visitor.contact) show(visitor.id, combined(visitor.contact, { metadata }));
    },

    reset: () => show(visitors.renew().id, null),

    flush: sender.flush,

    stop(): void {
      sender.stop();
      if (LIVE) updates?.();
    },
  };
}

/** Remove what this page or an earlier one has stored. */
export function forget(name: string, domain: string | undefined): void {
  names(`${name}.`).forEach(remove);
  write(name + DENIED, "1"); // only now, because storage may have been full
  remove(name + DENIED);
  writeCookie(name, "", domain);
}

/** What a token proves. */
const claim = ({ externalId, email, token }: Fields) => JSON.stringify([externalId, email, token]);
