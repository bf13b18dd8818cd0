export const warn = (...message: unknown[]) => console.warn("kinfold:", ...message);

/** Run `action`. Its errors go to the console, never to the page. */
export function safely<T>(action: () => T): T | undefined {
  try {
    return action();
  } catch (error) {
    warn(error);
    return undefined;
  }
}

/** How long to wait after a number of failures: longer and longer, up to 5 minutes, and not all pages at the same time. */
export const backOffMs = (failures: number) => Math.min(300_000, 1000 * 2 ** failures) * (0.5 + Math.random() / 2);

/** `at`: when the call was made that is being repeated, if one is. */
export const repeated: { at?: number | undefined } = {};
