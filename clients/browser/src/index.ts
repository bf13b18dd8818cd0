/** kinfold for pages: `start` gives an object that follows the visitor of this browser. */

import { Client, DENIED, forget } from "./client.js";
import { watchPages } from "./pages.js";
import type { Consent, Kinfold, Options, Visitor } from "./types.js";
import { repeated, safely, warn } from "./safely.js";

export type { Consent, Contact, Identity, Kinfold, Metadata, Options, Visitor } from "./types.js";

const AUTOMATED = /bot\b|crawl|spider|headless|lighthouse|prerender/i;

const isBrowser = typeof window !== "undefined";

const started = new Map<string, Kinfold>();
const nameOf = ({ host, key }: Options) => `${host} ${key}`;

/**
 * Start to follow the visitor of this browser. With the host and the key of an earlier call, the object of that call.
 * On a server, an object that does nothing.
 */
export function start(options: Options): Kinfold {
  if (!isBrowser) return make(options, false);
  const name = nameOf(options);
  const kinfold = started.get(name) ?? make(options, !!safely(() => isWelcome(options)));
  started.set(name, kinfold);
  return kinfold;
}

function make(options: Options, mayFollow: boolean): Kinfold {
  const name = "kinfold_" + (`${options.key}`.split("_").slice(2, -2).join("_") || "default");
  const listeners = new Set<(visitor: Visitor | null) => void>();
  let held: Array<(client: Client) => void> | undefined = [];
  let client: Client | undefined;
  let isWatching = false;

  const changed = () => listeners.forEach((listener) => safely(() => listener(kinfold.visitor)));

  const call = async (action: (client: Client, at: number) => void): Promise<void> => {
    const at = repeated.at ?? Date.now();
    const made = (client: Client) => action(client, at);
    if (client) safely(() => made(client!));
    else held?.push(made);
  };

  const stop = () => {
    safely(() => client?.stop());
    held = client = undefined;
    changed();
  };

  const setConsent = async (consent: Consent): Promise<void> => {
    if (consent === "granted" && mayFollow) {
      if (client) return;
      safely(() => (client = new Client(options, name, changed)));
      held?.forEach((made) => safely(() => made(client!)));
      held = undefined;
      if (options.pages) {
        void kinfold.page();
        if (!isWatching) watchPages(kinfold.page);
        isWatching = true;
      }
      changed();
    } else if (consent === "pending" && mayFollow) {
      if (!client) held ??= [];
    } else {
      stop();
      if (isBrowser) safely(() => forget(name, options.domain));
    }
  };

  const kinfold: Kinfold = {
    get visitor() {
      return client?.visitor ?? null;
    },
    page: () => call((client, at) => client.page(at)),
    identify: (identity) => call((client, at) => client.identify(identity, at)),
    setMetadata: (metadata) => call((client, at) => client.setMetadata(metadata, at)),
    reset: () => call((client) => client.reset()),
    setConsent,
    onChange(listener) {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
    flush: async () => client?.flush() ?? false,
    stop() {
      started.delete(nameOf(options));
      stop();
    },
  };
  void setConsent(options.consent ?? "granted");
  if (isBrowser)
    addEventListener("storage", ({ key, newValue }) => {
      if (key === name + DENIED && newValue && (client || held)) void setConsent("denied"); // in another tab
    });
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
