import adapter from "@sveltejs/adapter-node";
import { sveltekit } from "@sveltejs/kit/vite";
import { defineConfig } from "vite";

export default defineConfig({
  // The server itself speaks plain http, so it does not know the origin of its pages.
  plugins: [sveltekit({ adapter: adapter(), paths: { origin: process.env.APP_ORIGIN } })],
});
