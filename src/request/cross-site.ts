/**
 * Whether a request that carries cookies was made by a page that may make it (Fetch Metadata, with
 * the Origin header as the fallback that OWASP demands).
 *
 * @param origins exact serialized origins, such as "https://app.example.com"
 */
export function isTrustedSite(
  headers: Headers,
  method: string,
  origins: ReadonlySet<string>,
): boolean {
  const site = headers.get("sec-fetch-site");
  if (site === "same-origin" || (site === "none" && method === "GET")) {
    return true;
  }
  const origin = headers.get("origin");
  return origin !== null && origins.has(origin);
}
