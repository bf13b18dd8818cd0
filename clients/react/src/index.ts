"use client";

/** kinfold for React 18 and later, also for rendering on a server and for Next's app router. */

import { type Identity, type Kinfold, type Metadata, type Options, type Visitor, start } from "kinfold";
import { type ReactNode, createContext, createElement, useContext, useEffect, useRef, useSyncExternalStore } from "react";

export type { Consent, Contact, Identity, Kinfold, Metadata, Options, Visitor } from "kinfold";

const Current = createContext<Kinfold | null>(null);

/** The consent that the options had. Only a change of it counts: a provider that is mounted again overrides no `setConsent`. */
const consents = new WeakMap<Kinfold, Options["consent"]>();

export interface KinfoldProviderProps {
  /** The options of `start`. A change of `host`, `key` or `consent` takes effect; of the others, only the first values count. */
  options: Options;
  children?: ReactNode;
}

/** Follow the visitor of this browser. Components and hooks of this package work below it. */
export function KinfoldProvider({ options, children }: KinfoldProviderProps) {
  const kinfold = start(options); // in a browser, the same object for each render
  const { consent } = options;
  if (!consents.has(kinfold)) consents.set(kinfold, consent); // as `start` has it
  useEffect(() => {
    if (consent && consents.get(kinfold) !== consent) void kinfold.setConsent(consent);
    consents.set(kinfold, consent);
  }, [kinfold, consent]);
  const before = useRef(kinfold);
  useEffect(() => {
    if (before.current !== kinfold) before.current.stop();
    before.current = kinfold;
  }, [kinfold]);
  return createElement(Current.Provider, { value: kinfold }, children);
}

/** The object that `start` gives. Without a provider, one that does nothing, and a warning in the console. */
export function useKinfold(): Kinfold {
  const kinfold = useContext(Current);
  if (!kinfold) console.warn("kinfold: expected a <KinfoldProvider> above this component, got none");
  return kinfold ?? IDLE;
}

export interface VisitorHook {
  /** The visitor; null on a server, while the page is hydrated, and without consent. */
  visitor: Visitor | null;
  /** Say who the visitor is. What did not change is not sent. The function stays the same between renders, like the next two. */
  identify: (identity: Identity) => Promise<void>;
  /** Set metadata of the visitor, or of the visitor's contact. What did not change is not sent, except after a click. */
  setVisitorMetadata: (metadata: Metadata) => Promise<void>;
  /** Forget the visitor, after a log-out. */
  reset: () => Promise<void>;
}

/** The visitor of this browser. The component is rendered again when the visitor changes. */
export function useVisitor(): VisitorHook {
  const kinfold = useKinfold();
  const visitor = useSyncExternalStore(kinfold.onChange, () => kinfold.visitor, () => null);
  return { visitor, identify: kinfold.identify, setVisitorMetadata: kinfold.setMetadata, reset: kinfold.reset };
}

/**
 * Says who the visitor is, and shows nothing. It says nothing while both `externalId` and `email` are missing, so it may be
 * rendered before anybody has logged in.
 */
export function IdentifyVisitor(identity: Identity): null {
  const { visitor, identify } = useVisitor();
  const isKnown = !!(identity.externalId || identity.externalId === 0 || identity.email);
  // With `visitor`: a visitor who denies consent and grants it later is identified then.
  useEffect(() => {
    if (isKnown) void identify(identity);
  }, [identify, isKnown, !visitor, content(identity)]);
  return null;
}

export { IdentifyVisitor as IdentifySupportVisitor };

/** The same text for the same identity, although its objects are new at each render; else an object that is always new. */
function content({ externalId, email, name, image, metadata, token }: Identity): unknown {
  try {
    return JSON.stringify([externalId, email, name, image, metadata, token]);
  } catch {
    return {}; // `identify` says what is wrong with it
  }
}

const nothing = async () => {};

const IDLE: Kinfold = {
  visitor: null,
  page: nothing,
  identify: nothing,
  setMetadata: nothing,
  reset: nothing,
  setConsent: nothing,
  onChange: () => () => {},
  flush: async () => false,
  stop: () => {},
};
