import { createRoot } from "react-dom/client";
import { App } from "./app.tsx";
import { visitor } from "./session.ts";
import "./style.css";

const root = document.getElementById("root");
if (root !== null) {
  createRoot(root).render(<App />);
}
void visitor.load();
