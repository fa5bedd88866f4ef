import { TestEnvironment } from "jest-environment-jsdom";

export default class extends TestEnvironment {
  async setup() {
    await super.setup();
    const ofNode = {
      ...{ AbortController, AbortSignal, crypto, fetch, Headers, Request, Response },
      ...{ structuredClone, TextDecoder, TextEncoder, Uint8Array, URL, URLSearchParams },
    };
    for (const [name, value] of Object.entries(ofNode)) {
      Object.defineProperty(this.global, name, { value, configurable: true, writable: true });
    }
  }
}
