/** kinfold for pages: `start` gives an object that follows the visitor of this browser. */

import { Client, forget } from "./client.js";
import type { Consent, Identity, Kinfold, Metadata, Options, Visitor } from "./types.js";
import { safely, warn } from "./safely.js";

export type { Consent, Contact, Identity, Kinfold, Metadata, Options, Visitor } from "./types.js";

const AUTOMATED = /bot\b|crawl|spider|headless|lighthouse|prerender/i;

const started = new Map<string, Kinfold>();

/**
 * Start to follow the visitor of this browser. With the host and the key of an earlier call, the object of that call.
 * On a server, an object that does nothing.
 */
export function start(options: Options): Kinfold {
  if (typeof window === "undefined") return make(options, false);
  const name = `${options.host} ${options.key}`;
  const kinfold = started.get(name) ?? make(options, !!safely(() => isWelcome(options)));
  started.set(name, kinfold);
  return kinfold;
}

function make(options: Options, mayFollow: boolean): Kinfold {
  const name = "kinfold_" + (`${options.key}`.split("_").slice(2, -2).join("_") || "default");
  const listeners = new Set<(visitor: Visitor | null) => void>();
  let held: Array<(client: Client) => void> | undefined = [];
  let client: Client | undefined;

  const visitor = () => client?.visitor ?? null;
  const changed = () => listeners.forEach((listener) => safely(() => listener(visitor())));

  const call = async (action: (client: Client) => void): Promise<void> => {
    if (client) safely(() => action(client!));
    else held?.push(action);
  };

  const setConsent = async (consent: Consent): Promise<void> => {
    if (consent === "granted" && mayFollow) {
      if (client) return;
      safely(() => (client = new Client(options, name, changed)));
      const kept = held ?? [];
      held = undefined;
      kept.forEach(call);
      if (options.pages) await call((client) => client.watch());
    } else if (consent === "pending" && mayFollow) {
      if (!client) held ??= [];
      return;
    } else {
      held = undefined;
      safely(() => client?.stop());
      client = undefined;
      if (typeof window !== "undefined") safely(() => forget(name, options.domain));
    }
    changed();
  };

  // The time of a call is the last argument: the snippet passes when it was made.
  const kinfold = {
    get visitor() {
      return visitor();
    },
    page: (at = Date.now()) => call((client) => client.page(at)),
    identify: (identity: Identity, at = Date.now()) => call((client) => client.identify(identity, at)),
    setMetadata: (metadata: Metadata, at = Date.now()) => call((client) => client.setMetadata(metadata, at)),
    reset: () => call((client) => client.reset()),
    setConsent,
    onChange(listener: (visitor: Visitor | null) => void) {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
    flush: async () => client?.flush() ?? false,
  };
  void setConsent(options.consent ?? "granted");
  return kinfold;
}

function isWelcome(options: Options): boolean {
  const { host, key, automated, ignorePrivacySignals } = options;
  if (!host || !key) {
    warn("start: expected a host and a key, got", options); // often an environment variable that the build did not have
    return false;
  }
  const { doNotTrack, globalPrivacyControl, userAgent, webdriver } = navigator as Navigator & {
    globalPrivacyControl?: boolean;
  };
  const isOptedOut = doNotTrack === "1" || globalPrivacyControl === true;
  return (ignorePrivacySignals || !isOptedOut) && (automated || !(webdriver || AUTOMATED.test(userAgent)));
}
