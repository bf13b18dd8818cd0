/**
 * FNV-1a with 128 bits (RFC 9923). It tells whether a value is the one that was sent, and nobody gains by two values with one
 * hash. So it need not be a cryptographic one, which would be larger, or asynchronous and missing on pages without TLS
 * (`crypto.subtle`).
 */

const OFFSET_BASIS = 0x6c62272e07bb014262b821756295c58dn;
const PRIME = 0x1000000000000000000013bn;

export const utf8 = (text: string) => new TextEncoder().encode(text);

/** The hash of a text's UTF-8, as 32 hexadecimal digits. */
export function hash(text: string): string {
  let hashed = OFFSET_BASIS;
  for (const byte of utf8(text)) hashed = BigInt.asUintN(128, (hashed ^ BigInt(byte)) * PRIME);
  return hashed.toString(16).padStart(32, "0");
}
