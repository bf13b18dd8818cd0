// The customer's page. useVisitor says who is there, and the server what this person and the agents have written.
import { IdentifyVisitor, KinfoldProvider, useVisitor } from "@kinfold/react";
import { useEffect, useRef, useState } from "react";
import { createRoot } from "react-dom/client";
import { Thread, get, post, useLive } from "./thread";
import "./style.css";

function Customer() {
  const { visitor, reset } = useVisitor();
  const [user, setUser] = useState(null);
  const latest = useRef();
  const mine = `visitor=${visitor?.id}`;
  const messages = useLive(visitor && `/thread?${mine}`, user);

  // Also for the new visitor after a log-out, and when the thread is not this user's any more, because another tab has logged in
  // or out: the server has a token for the user who is logged in, if there is one.
  useEffect(() => {
    if (!visitor) return;
    become(get(`/me?${mine}`));
  }, [visitor?.id, messages === null]);

  /** Wait for a user. Only the last answer counts that was asked for. 409: the visitor is another user. */
  async function become(asked) {
    latest.current = asked;
    try {
      const user = await asked;
      if (latest.current === asked) setUser(user);
    } catch ({ status }) {
      if (latest.current === asked && status === 409) leave();
    }
  }

  function leave() {
    become(null);
    reset();
  }

  async function logIn(name) {
    await become(post(`/log-in/${name}?${mine}`));
  }

  async function logOut() {
    await post("/log-out");
    leave();
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
      {visitor && messages !== null && (
        // The key drops what was typed when another visitor begins. While the thread is loaded, as after a log-in, it stays.
        <Thread key={visitor.id} messages={messages ?? []} isAgent={false} onSend={(message) => post(`/messages?${mine}`, message)} />
      )}
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
