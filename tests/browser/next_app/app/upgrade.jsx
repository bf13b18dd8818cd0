"use client";

import { useKinfold, useVisitor } from "@kinfold/react";

export function Upgrade() {
  const { visitor, setVisitorMetadata } = useVisitor();
  globalThis.kinfold = useKinfold(); // for the test

  return <button onClick={() => setVisitorMetadata({ plan: "pro" })}>{visitor?.contact?.metadata.plan ?? "nobody"}</button>;
}
