import type { Visitor } from "rpc-session/ssr";

declare global {
  namespace App {
    interface Locals {
      visitor: Visitor;
    }
  }
}
