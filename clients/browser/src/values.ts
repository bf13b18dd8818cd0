/** What the gateway accepts (contract section 2, Limits). */

import { utf8 } from "./hash.js";
import { warn } from "./safely.js";

export type Value = string | number | boolean | null;

/** An enum, because its numbers are written into the code: the script is smaller. */
const enum Limit {
  NAME_CHARS = 128,
  VALUE_BYTES = 8192,
}

export const byteLength = (text: string) => utf8(text).length;

/** A text without what no event may contain; undefined for what is neither a text nor an exact number, and for white space. */
export const text = (value: unknown): string | undefined =>
  typeof value === "string" || (typeof value === "number" && isValue(value)) ? legal(`${value}`).trim() || undefined : undefined;

/** The metadata that can be sent. */
export function values(metadata: Record<string, unknown> | null | undefined): Record<string, Value> {
  const kept: Record<string, Value> = {};
  // A text or an array has an entry for each character or item, and a Map has none.
  if (metadata && {}.toString.call(metadata) !== "[object Object]") {
    warn("metadata: expected an object, got", metadata);
    return kept;
  }
  for (const [name, given] of Object.entries(metadata ?? {})) {
    if (given === undefined) continue;
    const plain = given instanceof Date ? (given.toJSON() ?? NaN) : typeof given === "bigint" ? Number(given) : given;
    const value = typeof plain === "string" ? legal(plain) : plain;
    const key = legal(name);
    if (key && key.length <= Limit.NAME_CHARS && isValue(value)) kept[key] = value;
    else warn("metadata: expected a short name and a short text, number, boolean, null or date, got", name, given);
  }
  return kept;
}

function isValue(value: unknown): value is Value {
  if (typeof value === "number") return Number.isSafeInteger(value) || (isFinite(value) && value % 1 !== 0);
  if (typeof value === "string") return byteLength(value) <= Limit.VALUE_BYTES;
  return value === null || typeof value === "boolean";
}

/** Without NULs and halves of surrogate pairs (a pattern with `u` sees whole pairs as one character). */
const legal = (value: string) => value.replace(/[\0\ud800-\udfff]/gu, "");
