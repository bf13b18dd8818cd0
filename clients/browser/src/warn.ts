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
