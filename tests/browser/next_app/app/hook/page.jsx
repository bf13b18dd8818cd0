"use client";

import { useVisitor } from "@kinfold/react";
import { useEffect } from "react";

import { Upgrade } from "../upgrade";
import { user } from "../user";

export default function Page() {
  const { visitor, identify } = useVisitor();
  useEffect(() => {
    if (user && !visitor?.contact) {
      identify({ externalId: user.id, email: user.email, name: user.name, image: user.avatar, metadata: { plan: user.plan } });
    }
  }, [user, visitor?.contact, identify]);

  return <Upgrade />;
}
