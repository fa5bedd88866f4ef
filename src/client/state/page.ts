/**
 * Listens to an event of the page or worker. Does nothing in runtimes without such events.
 *
 * @returns a function that stops listening
 */
export function onPageEvent(
  name: "online" | "pageshow",
  listener: (event: { readonly persisted?: boolean }) => void,
): () => void {
  if (typeof globalThis.addEventListener !== "function") {
    return () => {};
  }
  const own = (event: Event): void => listener(event as PageTransitionEvent);
  globalThis.addEventListener(name, own);
  return () => globalThis.removeEventListener(name, own);
}
