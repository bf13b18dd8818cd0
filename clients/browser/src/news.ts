/** What of a profile is news to the gateway. */

import type { Contact } from "./types.js";
import { type Ids, type Known, digest } from "./visitors.js";

export type Fields = Record<string, unknown>;

export interface Profile extends Ids {
  name?: string | null | undefined;
  image?: string | null | undefined;
  metadata?: Contact["metadata"] | undefined;
}

/** The prefix of metadata among what was sent. */
const KEY = "metadata.";

/** Which of the fields were not sent in the last `ms`, and what to remember of them. */
export function news({ id, sent }: Known, { metadata, ...fields }: Profile, at: number, ms: number) {
  const made: Known["sent"] = {};
  const isNews = (name: string, value: unknown) => {
    const hashed = digest(id, name, value);
    const [was, when] = sent[name] ?? [];
    return !(was === hashed && Math.abs(at - when!) < ms) && (made[name] = [hashed, at]);
  };
  const changed: Fields = filtered(fields, (value, name) => value !== undefined && isNews(name, value));
  changed.metadata = some(filtered(metadata, (value, name) => isNews(KEY + name, value)));
  return { changed, sent: made };
}

/**
 * What was sent, so that `setMetadata` sends again what the gateway shows otherwise. `identify` does not: two pages that declare
 * different values would do so forever.
 */
export function doubted({ id, sent }: Known, shown: Fields): Known["sent"] {
  const isWrong = (name: string) => name.startsWith(KEY) && sent[name]![0] !== digest(id, name, shown[name.slice(KEY.length)]);
  return Object.fromEntries(Object.entries(sent).map(([name, [was, at]]) => [name, [was, isWrong(name) ? 0 : at]]));
}

/** A contact, with what the page or the gateway says of it. */
export const combined = (contact: Contact | null, { metadata, ...fields }: Profile): Contact => ({
  ...contact,
  ...filtered(fields, (value) => value),
  metadata: { ...contact?.metadata, ...metadata },
});

export const some = <T extends object>(fields: T) => (Object.keys(fields).length ? fields : undefined);

function filtered<T>(fields: Record<string, T> | undefined, keep: (value: T, name: string) => unknown): Record<string, T> {
  return Object.fromEntries(Object.entries(fields ?? {}).filter(([name, value]) => keep(value, name)));
}
