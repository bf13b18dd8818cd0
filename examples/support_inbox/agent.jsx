// The agent's page: the threads, one of them, and the person beside it. The server says everything that is on it, live.
import { useEffect, useState } from "react";
import { createRoot } from "react-dom/client";
import { Thread, post, useLive } from "./thread";
import "./style.css";

const name = ({ person }) => person?.name ?? person?.email ?? "A visitor";

function Agent() {
  const threads = useLive("/agent/inbox") ?? [];
  const [chosen, setChosen] = useState(); // the id of a message: it stays while threads become one
  const thread = threads.find(({ messages }) => messages.some(({ id }) => id === chosen)) ?? threads[0];
  const first = thread?.messages[0].id;
  useEffect(() => setChosen(first), [first]); // another thread becomes the newest while the agent writes: this one stays
  if (!thread) return <p className="empty">No messages yet.</p>;

  return (
    <main>
      <nav>
        {threads.map((each) => (
          <button key={each.messages[0].id} aria-current={each === thread} onClick={() => setChosen(each.messages[0].id)}>
            <b>{name(each)}</b>
            <small>{each.messages.at(-1).text}</small>
          </button>
        ))}
      </nav>
      <Thread key={first} messages={thread.messages} isAgent onSend={(message) => post(`/agent/reply/${thread.messages.at(-1).id}`, message)} />
      <aside aria-label="Person">
        <h2>{name(thread)}</h2>
        {thread.person?.email && <p>{thread.person.email}</p>}
        {thread.person?.plan && <span className={`plan ${thread.person.plan}`}>{thread.person.plan}</span>}
        <h3>Devices</h3>
        <ul>
          {thread.devices.map(({ device }, index) => (
            <li key={index}>{device}</li>
          ))}
        </ul>
      </aside>
    </main>
  );
}

createRoot(document.getElementById("agent")).render(<Agent />);
