/** Where a browser keeps things, as JSON. What cannot be stored is kept in memory, until the page ends. */

import { safely } from "./safely.js";

const LONGEST_COOKIE_S = 34_560_000; // 400 days: RFC 6265bis, 5.5

const memory = new Map<string, string>();

/** What was written; null if nothing was, and undefined if it is damaged. */
export const read = (name: string): unknown =>
  safely(() => JSON.parse(memory.get(name) ?? attempt(() => localStorage.getItem(name)) ?? "null"));

/** Returns whether it will be there after the page ends. */
export function write(name: string, json: string): boolean {
  hold(name, json);
  return !!attempt(() => {
    localStorage.setItem(name, json); // throws where storage is full
    return memory.delete(name);
  });
}

/** Keep it until the page ends. */
export const hold = (name: string, json: string) => void memory.set(name, json);

export function remove(name: string): void {
  memory.delete(name);
  attempt(() => localStorage.removeItem(name));
}

/** The names with a prefix, sorted. */
export const names = (prefix: string): string[] =>
  [...memory.keys(), ...(attempt(() => Object.keys(localStorage)) ?? [])] // reading it throws where cookies are blocked
    .filter((name) => name.startsWith(prefix))
    .sort();

export const cookies = () => attempt(() => document.cookie) ?? "";

/** Set a cookie; an empty value removes it. */
export function writeCookie(name: string, value: string, domain: string | undefined): void {
  const put = (value: string, scope = "") =>
    attempt(() => (document.cookie = `${name}=${value}; Max-Age=${value ? LONGEST_COOKIE_S : 0}; Path=/; SameSite=Lax${scope}`));
  if (domain) put(""); // of a page, or a time, without the setting: there would be two visitors
  put(value, (domain ? `; Domain=${domain}` : "") + (location.protocol === "https:" ? "; Secure" : ""));
}

function attempt<T>(action: () => T): T | undefined {
  try {
    return action();
  } catch {
    return undefined;
  }
}
