/** What the gateway accepts (contract section 2, Limits). */

import { utf8 } from "./hash.js";
import { warn } from "./safely.js";

export type Value = string | number | boolean | null;

const MAX_NAME_CHARS = 128;
const MAX_VALUE_BYTES = 8192;

export const byteLength = (text: string) => utf8(text).length;

/** A text without what no event may contain; undefined for what is neither a text nor a number, and for white space. */
export function text(value: unknown): string | undefined {
  if (typeof value !== "string" && typeof value !== "number") return undefined;
  return legal(`${value}`).trim() || undefined;
}

/** The metadata that can be sent. */
export function values(metadata: Record<string, unknown> | null | undefined): Record<string, Value> {
  const kept: Record<string, Value> = {};
  // A text or an array has an entry for each character or item, and a Map has none.
  if (metadata && Object.prototype.toString.call(metadata) !== "[object Object]") {
    warn("metadata: expected an object, got", metadata);
    return kept;
  }
  for (const [name, given] of Object.entries(metadata ?? {})) {
    if (given === undefined) continue;
    let value = given instanceof Date ? (given.toJSON() ?? NaN) : typeof given === "bigint" ? Number(given) : given;
    if (typeof value === "string") value = legal(value);
    if (!isValue(value)) warn(`metadata.${name}: expected a short text, a number, a boolean, null or a date, got`, given);
    else if (!name || name.length > MAX_NAME_CHARS) warn(`metadata: expected names of 1 to 128 characters, got`, name);
    else kept[legal(name)] = value;
  }
  return kept;
}

function isValue(value: unknown): value is Value {
  if (typeof value === "number") return Number.isSafeInteger(value) || (isFinite(value) && value % 1 !== 0);
  if (typeof value === "string") return byteLength(value) <= MAX_VALUE_BYTES;
  return value === null || typeof value === "boolean";
}

/** Without NULs and halves of surrogate pairs (a pattern with `u` sees whole pairs as one character). */
const legal = (value: string) => value.replace(/[\0\ud800-\udfff]/gu, "");
