/** kinfold for pages: `start` gives an object that follows the visitor of this browser. */

import { type Client, DENIED, follow, forget } from "./client.js";
import { watchPages } from "./pages.js";
import type { Consent, Kinfold, Options, Visitor } from "./types.js";
import { repeated, safely, warn } from "./safely.js";

export type { Consent, Contact, Identity, Kinfold, Metadata, Options, Visitor } from "./types.js";

const AUTOMATED = /bot\b|crawl|spider|headless|lighthouse|prerender/i;

declare global {
  interface Document {
    /** Whether the browser has loaded the page in advance, and the visitor has not opened it. */
    readonly prerendering?: boolean;
  }
}

const isBrowser = typeof window !== "undefined";

const started = new Map<string, Kinfold>();

/**
 * Start to follow the visitor of this browser. With the host and the key of an earlier call, the object of that call.
 * On a server, an object that does nothing.
 */
export function start(options: Options): Kinfold {
  options ??= {} as Options; // a script without types may pass nothing
  const name = `${options.host} ${options.key}`;
  const kinfold = started.get(name) ?? make(options, () => started.delete(name));
  if (isBrowser) started.set(name, kinfold);
  return kinfold;
}

function make(options: Options, ended: () => void): Kinfold {
  const { host, key, domain } = options;
  const isUsable = isBrowser && !!host && !!key;
  const mayFollow = isUsable && isWelcome(options);
  if (isBrowser && !isUsable) warn("start: expected a host and a key, got", options); // often the build did not have a variable
  const name = "kinfold_" + (`${key}`.split("_").slice(2, -2).join("_") || "default");
  const listeners = new Set<(visitor: Visitor | null) => void>();
  let held: Array<(client: Client) => void> | undefined = [];
  let client: Client | undefined;
  let isWatching = false;
  let wanted: Consent | undefined;

  const changed = () => listeners.forEach((listener) => safely(() => listener(kinfold.visitor)));

  const call =
    (method: "page" | "identify" | "setMetadata" | "reset") =>
    async (given?: any): Promise<void> => {
      const at = repeated.at ?? Date.now();
      const made = (client: Client) => safely(() => client[method](at, given));
      if (client) made(client);
      else held?.push(made);
    };

  const stop = () => {
    client?.stop();
    held = client = undefined;
    changed();
  };

  const setConsent = async (consent: Consent): Promise<void> => {
    wanted = consent;
    if (isUsable && document.prerendering) return; // until the visitor opens the page
    if (consent === "granted" && mayFollow) {
      if (client) return;
      safely(() => (client = follow(options, name, changed)));
      held?.forEach((made) => made(client!));
      held = undefined;
      if (options.pages) {
        void kinfold.page();
        if (!isWatching) watchPages(() => client && kinfold.page());
        isWatching = true;
      }
      changed();
    } else if (consent === "pending" && mayFollow) {
      const before = held ?? [];
      stop();
      held = before;
    } else {
      stop();
      if (isUsable) forget(name, domain);
    }
  };

  const kinfold: Kinfold = {
    get visitor() {
      return client?.visitor() ?? null;
    },
    page: call("page"),
    identify: call("identify"),
    setMetadata: call("setMetadata"),
    reset: call("reset"),
    setConsent,
    onChange(listener) {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
    flush: async () => client?.flush() ?? false,
    stop() {
      ended();
      stop();
      wanted = undefined;
    },
  };
  void setConsent(options.consent || "granted"); // an attribute may be empty
  if (isUsable) {
    document.addEventListener("prerenderingchange", () => wanted && setConsent(wanted));
    addEventListener("storage", ({ key, newValue }) => {
      if (key === name + DENIED && newValue && (client || held)) void setConsent("denied"); // in another tab
    });
  }
  return kinfold;
}

function isWelcome({ automated, ignorePrivacySignals }: Options): boolean {
  const { doNotTrack, globalPrivacyControl, userAgent, webdriver } = navigator as Navigator & { globalPrivacyControl?: boolean };
  const isOptedOut = doNotTrack === "1" || globalPrivacyControl;
  return !!(ignorePrivacySignals || !isOptedOut) && !!(automated || !(webdriver || AUTOMATED.test(userAgent)));
}
