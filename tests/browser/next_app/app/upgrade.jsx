"use client";

import { useKinfold, useVisitor } from "@kinfold/react";

export function Upgrade() {
  const { visitor, setVisitorMetadata } = useVisitor();
  globalThis.kinfold = useKinfold(); // for the test
  const upgrade = async () => {
    await setVisitorMetadata({ plan: "pro", upgradedAt: new Date().toISOString(), mrr: 99 });
  };

  return <button onClick={upgrade}>{visitor?.contact?.metadata.plan ?? "nobody"}</button>;
}
