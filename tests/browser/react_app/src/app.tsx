import { IdentifyVisitor, KinfoldProvider, useKinfold, useVisitor } from "@kinfold/react";
import { Fragment, StrictMode, useState, version } from "react";
import { Component, Hook, Upgrade } from "./examples";

const EXAMPLES = {
  component: Component,
  hook: Hook,
  short: ({ user }) => <IdentifyVisitor externalId={user.id} />,
  outside: Component,
};

export function App({ options, example, user }) {
  const [renders, setRenders] = useState(1);
  const [consent, setConsent] = useState(options.consent);
  const [key, setKey] = useState(options.key);
  const [mounts, setMounts] = useState(0);
  const Example = EXAMPLES[example];
  const Provider = example === "outside" ? Fragment : KinfoldProvider;
  return (
    <StrictMode>
      <p id="version">{version}</p>
      <button onClick={() => setRenders(renders + 1)}>Render again</button>
      <button onClick={() => setConsent("granted")}>Agree</button>
      <button onClick={() => setKey(options.nextKey)}>Next key</button>
      <button onClick={() => setMounts(mounts + 1)}>Mount again</button>
      <output id="renders">{renders}</output>
      <Provider {...(Provider === Fragment ? {} : { options: { ...options, consent, key } })} key={mounts}>
        {user && <Example user={{ ...user }} />}
        <Upgrade />
        <Account />
      </Provider>
    </StrictMode>
  );
}

function Account() {
  const { visitor, reset } = useVisitor();
  globalThis.kinfold = useKinfold(); // for the test
  return (
    <>
      <output id="visitor">{JSON.stringify(visitor)}</output>
      <button onClick={reset}>Log out</button>
    </>
  );
}
