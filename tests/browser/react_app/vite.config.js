/** One application for both versions of React: with `REACT=18`, the older packages replace the newer ones. */

import { defineConfig } from "vite";

const older = process.env.REACT === "18" ? ["react-dom", "react"] : [];

export default defineConfig(({ isSsrBuild }) => ({
  base: "./",
  resolve: { alias: older.map((name) => ({ find: new RegExp(`^${name}(?=/|$)`), replacement: `${name}-18` })) },
  build: {
    outDir: `dist/react-${process.env.REACT}`,
    emptyOutDir: false,
    rolldownOptions: {
      input: isSsrBuild ? ["src/server.tsx"] : ["src/client.tsx", "src/sdks.js"],
      output: { entryFileNames: "[name].js" },
    },
  },
  ssr: { noExternal: true },
  logLevel: "warn",
}));
