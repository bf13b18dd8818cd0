// The product page that kinfold follows shows this code. Only the import line is another one.
import { IdentifySupportVisitor, useVisitor } from "@kinfold/react";
import { useEffect } from "react";

export function Component({ user }) {
  return (
    <IdentifySupportVisitor
      externalId={user.id}
      email={user.email}
      name={user.name}
      image={user.image}
      metadata={{
        plan: user.plan,
        signupDate: user.createdAt,
        company: user.company,
        mrr: user.mrr,
      }}
    />
  );
}

export function Hook({ user }) {
  const { visitor, identify } = useVisitor();

  useEffect(() => {
    if (user && !visitor?.contact) {
      identify({
        externalId: user.id,
        email: user.email,
        name: user.name,
        image: user.avatar,
        metadata: { plan: user.plan },
      });
    }
  }, [user, visitor?.contact, identify]);

  return null;
}

export function Upgrade() {
  const { setVisitorMetadata } = useVisitor();

  const handleUpgrade = async () => {
    await setVisitorMetadata({
      plan: "pro",
      upgradedAt: new Date().toISOString(),
      mrr: 99,
    });
  };

  return <button onClick={handleUpgrade}>Upgrade</button>;
}
