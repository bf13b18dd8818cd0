// The customer's page. useVisitor says who is there, and the server what this person and the agents have written.
import { IdentifyVisitor, KinfoldProvider, useVisitor } from "@kinfold/react";
import { useEffect, useState } from "react";
import { createRoot } from "react-dom/client";
import { Thread, post, useLive } from "./thread";
import "./style.css";

function Customer() {
  const { visitor, reset } = useVisitor();
  const [user, setUser] = useState(null);
  const mine = `visitor=${visitor?.id}`;
  const messages = useLive(visitor && `/thread?${mine}`);

  // Also for the new visitor after a log-out: the server has a token for the user who is logged in, if there is one.
  useEffect(() => {
    if (!visitor) return;
    const request = new AbortController();
    fetch(`/me?${mine}`, { signal: request.signal }).then((answer) => answer.json()).then(setUser, () => {});
    return () => request.abort();
  }, [visitor?.id]);

  async function logIn(name) {
    setUser(await post(`/log-in/${name}?${mine}`));
  }

  async function logOut() {
    await post("/log-out");
    setUser(null);
    reset();
  }

  const plan = visitor?.contact?.metadata.plan; // live: it changes here, too, when it is upgraded on another device

  return (
    <main>
      {user && <IdentifyVisitor {...user} />}
      <header>
        <h1>How can we help{user && `, ${user.name.split(" ")[0]}`}?</h1>
        {user && plan && <span className={`plan ${plan}`}>{plan}</span>}
        <nav>
          {user && plan === "free" && <button onClick={() => post("/upgrade")}>Upgrade to Pro</button>}
          {user && <button onClick={logOut}>Log out</button>}
          {!user && <button onClick={() => logIn("ada")}>Log in as Ada</button>}
          {!user && <button onClick={() => logIn("lin")}>Log in as Lin</button>}
        </nav>
      </header>
      {messages && <Thread messages={messages} isAgent={false} onSend={(message) => post(`/messages?${mine}`, message)} />}
    </main>
  );
}

const root = document.getElementById("customer");
const { host, key } = root.dataset;

createRoot(root).render(
  <KinfoldProvider options={{ host, key, pages: true, live: true }}>
    <Customer />
  </KinfoldProvider>,
);
