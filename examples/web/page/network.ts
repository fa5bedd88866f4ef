import type { Transport } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import type { ReactNode } from "react";
import type { TransportParts } from "rpc-session/client";

/** How the page reaches its service. */
export interface Network {
  readonly connect: (parts: TransportParts) => Transport;
  /** Whether all tabs of the browser reach the same service. */
  readonly isShared: boolean;
  /** What the page says about it. */
  readonly about?: ReactNode;
}

/** Over HTTP. The static page has static/network.tsx in place of this file, and no other difference. */
export const network: Network = {
  connect: (parts) => createConnectTransport({ baseUrl: location.origin, ...parts }),
  isShared: true,
};
