import { hydrateRoot } from "react-dom/client";
import { App } from "./app";

const root = document.getElementById("root");
hydrateRoot(root, <App {...JSON.parse(root.dataset.props)} />, {
  onRecoverableError: (error) => reportError(error), // the server's HTML was not what the page shows
});
