import { createConnectTransport } from "@connectrpc/connect-web";
import { createVisitor, type VisitorOptions, type VisitorRequest } from "rpc-session/ssr";

const options: VisitorOptions = {
  transport: (parts) =>
    createConnectTransport({
      baseUrl: process.env.SERVICE_URL ?? "http://localhost:8080",
      ...parts,
    }),
  origin: process.env.APP_ORIGIN ?? "http://localhost:3000",
};

export const visitorOf = (request: VisitorRequest) => createVisitor(request, options);
