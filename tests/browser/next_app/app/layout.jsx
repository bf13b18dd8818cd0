// A server component: it has no directive, and uses the components all the same.
import { KinfoldProvider } from "@kinfold/react";

export default function Layout({ children }) {
  return (
    <html lang="en">
      <body>
        <KinfoldProvider options={{ host: process.env.KINFOLD_HOST, key: process.env.KINFOLD_KEY, automated: true }}>
          {children}
        </KinfoldProvider>
      </body>
    </html>
  );
}
