/** Where a browser keeps things. What cannot be stored is kept in memory, until the page ends. */

const LONGEST_COOKIE_S = 400 * 24 * 3600; // RFC 6265bis, 5.5

export interface Store {
  get(name: string): string | null;
  /** Returns whether it will be there after the page ends. */
  set(name: string, value: string): boolean;
  /** Keep it until the page ends. */
  hold(name: string, value: string): void;
  remove(name: string): void;
  /** The names with a prefix, sorted. */
  names(prefix: string): string[];
}

export function openStore(): Store {
  const memory = new Map<string, string>();
  const local = attempt(() => localStorage); // reading it throws where cookies are blocked
  return {
    get: (name) => memory.get(name) ?? attempt(() => local!.getItem(name)) ?? null,
    set(name, value) {
      memory.set(name, value);
      return !!attempt(() => {
        local!.setItem(name, value); // throws where storage is full
        return memory.delete(name);
      });
    },
    hold: (name, value) => void memory.set(name, value),
    remove(name) {
      memory.delete(name);
      attempt(() => local!.removeItem(name));
    },
    names: (prefix) =>
      [...memory.keys(), ...(attempt(() => Object.keys(local!)) ?? [])]
        .filter((name) => name.startsWith(prefix))
        .sort(),
  };
}

export function readCookie(name: string): string {
  const found = attempt(() => document.cookie.split("; ").find((each) => each.startsWith(name + "=")));
  return found ? found.slice(name.length + 1) : "";
}

/** Set a cookie; an empty value removes it. */
export function writeCookie(name: string, value: string, domain: string | undefined): void {
  const scope = (domain ? `; Domain=${domain}` : "") + (location.protocol === "https:" ? "; Secure" : "");
  const age = value ? LONGEST_COOKIE_S : 0;
  attempt(() => (document.cookie = `${name}=${value}; Max-Age=${age}; Path=/; SameSite=Lax${scope}`));
}

function attempt<T>(action: () => T): T | undefined {
  try {
    return action();
  } catch {
    return undefined;
  }
}
