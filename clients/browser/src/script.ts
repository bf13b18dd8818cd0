/**
 * What the gateway serves at `/kinfold.js`: `window.kinfold`, started with the attributes of the script's element.
 * The snippet of docs/how-to/browsers.md keeps the calls that are made before.
 */

import { start } from "./index.js";
import type { Consent, Options } from "./types.js";
import { repeated, safely } from "./safely.js";

type Kept = [method: string, args: unknown[], answer: (result: unknown) => void, at: number];

safely(() => {
  const page = window as unknown as Record<string, unknown> & { kinfold?: { q?: Kept[] } };
  const script = document.currentScript as HTMLScriptElement;
  const { key, consent, domain, host: given, ...flags } = script.dataset;
  if (!key) {
    page.kinfold = { ...page.kinfold, start } as object;
    return;
  }
  const host = given ?? new URL(script.src).origin;
  const name = `kinfold ${host} ${key}`;
  if (page[name]) return; // a page may have the element twice
  page[name] = true;
  const options: Options = { host, key, consent: consent as Consent, domain, live: LIVE };
  for (const name in flags) options[name as "pages"] = flags[name] !== "false"; // or "query" and so on
  const kept = page.kinfold?.q ?? [];
  const kinfold = start(options) as unknown as Record<string, (...args: unknown[]) => unknown>;
  page.kinfold = kinfold as object;
  const run = ([method, args, answer, at]: Kept) => {
    repeated.at = at;
    safely(() => answer(kinfold[method]!(...args)));
    repeated.at = undefined;
  };
  kept.forEach(run);
  kept.push = run as () => never; // by those who took a function of the snippet's before
});
