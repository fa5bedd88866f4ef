/**
 * For those who write without types: what is misspelt would be taken for what is left out.
 *
 * @param what the name of the option, for the message
 * @param known every member there is; the values do not matter
 * @throws TypeError when it is no object, or has a member that there is none of
 */
export function assertMembers<T extends object>(
  what: string,
  value: T,
  known: Readonly<Record<keyof T, unknown>>,
): void {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new TypeError(`${what}: must be an object`);
  }
  const unknown = Object.keys(value).find((name) => !Object.hasOwn(known, name));
  if (unknown !== undefined) {
    const names = Object.keys(known).join(", ");
    throw new TypeError(`${what}: there is no option "${unknown}"; there are ${names}`);
  }
}
