/** What a page passes in and gets back. */

/** Whether this browser may be followed. Nothing is stored, read or sent unless it is `granted`. */
export type Consent = "pending" | "granted" | "denied";

/** Strings, finite numbers, booleans, null and dates. Other values are left out, with a warning in the console. */
export type Metadata = Record<string, unknown>;

/** Who the visitor is: at least one of `externalId` and `email`. */
export interface Identity {
  /** The id of the user in your own database. */
  externalId?: string | number | null | undefined;
  email?: string | null | undefined;
  name?: string | null | undefined;
  image?: string | null | undefined;
  metadata?: Metadata | null | undefined;
  /** An identity token of your backend. A publishable key may identify nobody without one. */
  token?: string | null | undefined;
}

/**
 * The contact, as far as this page knows it: what it has passed to `identify` and `setMetadata` since it was loaded. With `live`,
 * also what the gateway shows of it: name and image, and metadata where the key allows it.
 */
export interface Contact {
  externalId?: string;
  email?: string;
  name?: string;
  image?: string;
  metadata: Record<string, string | number | boolean | null>;
}

/** The visitor of this browser. `contact` is null until the visitor is identified, as far as this page knows. */
export interface Visitor {
  id: string;
  contact: Contact | null;
}

export interface Options {
  /** The URL of the gateway. */
  host: string;
  /** A publishable key. */
  key: string;
  /** Default: `granted`. With `pending`, calls are kept in memory until `setConsent`. */
  consent?: Consent | undefined;
  /** Send a page view now, when the path or the query of the URL changes, and when the visitor comes back. Default: false. */
  pages?: boolean | undefined;
  /** Whether `url` and `referrer` keep their query. Default: false, because a query may contain secrets. */
  query?: boolean | undefined;
  /** Follow visitors in spite of Do Not Track and Global Privacy Control. Default: false. */
  ignorePrivacySignals?: boolean | undefined;
  /** Follow automated browsers, such as crawlers and your own end-to-end tests. Default: false. */
  automated?: boolean | undefined;
  /** Update `visitor.contact` when the contact changes in the gateway. Default: false. */
  live?: boolean | undefined;
  /** The domain of the cookie, for a visitor who is the same on all its subdomains. Default: the page's host alone. */
  domain?: string | undefined;
}

export interface Kinfold {
  /** The visitor; null without consent, and on a server. The object changes only when what it says does. */
  readonly visitor: Visitor | null;
  /** Send a page view. */
  page(): Promise<void>;
  /** Say who the visitor is. Another person than before is a new visitor. What did not change for a day is not sent again. */
  identify(identity: Identity): Promise<void>;
  /** Set metadata of the visitor, or of the visitor's contact. What did not change is sent once a day, or after a click. */
  setMetadata(metadata: Metadata): Promise<void>;
  /** Forget the visitor, after a log-out: the next user of this browser is another visitor. */
  reset(): Promise<void>;
  /** Grant or deny consent. Denying removes what is stored, and discards what is not sent, also in other tabs of the site. */
  setConsent(consent: Consent): Promise<void>;
  /** Call `listener` whenever `visitor` changes. Returns a function that ends this. */
  onChange(listener: (visitor: Visitor | null) => void): () => void;
  /** Send now. Resolves to whether nothing waits any more: everything has arrived, or was rejected. */
  flush(): Promise<boolean>;
  /** Follow the visitor no more on this page, for example before a start with another key. What is stored stays. */
  stop(): void;
}
