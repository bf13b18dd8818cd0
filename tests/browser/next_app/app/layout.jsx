// A server component: it has no directive, and uses the components all the same.
import { IdentifySupportVisitor, KinfoldProvider } from "@kinfold/react";

const user = { id: "u-1", email: "ada@example.org", name: "Ada", createdAt: new Date(0) };

export default function Layout({ children }) {
  return (
    <html lang="en">
      <body>
        <KinfoldProvider options={{ host: process.env.KINFOLD_HOST, key: process.env.KINFOLD_KEY, automated: true }}>
          <IdentifySupportVisitor
            externalId={user.id}
            email={user.email}
            name={user.name}
            metadata={{ plan: "free", signupDate: user.createdAt }}
          />
          {children}
        </KinfoldProvider>
      </body>
    </html>
  );
}
