// A server component, too.
import { IdentifySupportVisitor } from "@kinfold/react";

import { Upgrade } from "./upgrade";
import { user } from "./user";

export default function Page() {
  return (
    <>
      <IdentifySupportVisitor externalId={user.id} email={user.email} name={user.name} image={user.image}
        metadata={{ plan: user.plan, signupDate: user.createdAt, company: user.company, mrr: user.mrr }} />
      <Upgrade />
    </>
  );
}
