// What the customer's page and the agent's have in common.
import { useEffect, useState } from "react";

export const get = (url) => ask(url, {});
export const post = (url, body) =>
  ask(url, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

async function ask(url, options) {
  const answer = await fetch(url, options);
  if (!answer.ok) throw Object.assign(new Error(`expected success, got ${answer.status}`), { status: answer.status });
  return answer.json();
}

/** What the server says to a user at a URL, live. Undefined until it does: what was said to another one is never shown. */
export function useLive(url, user) {
  const [told, setTold] = useState({});
  useEffect(() => {
    if (!url) return;
    const source = new EventSource(url);
    source.onmessage = ({ data }) => setTold({ url, user, value: JSON.parse(data) });
    return () => source.close();
  }, [url, user]);
  return told.url === url && told.user === user ? told.value : undefined;
}

/** The messages, and a form for the next one. */
export function Thread({ messages, isAgent, onSend }) {
  const [text, setText] = useState("");
  const [isLost, setLost] = useState(false);

  async function send(event) {
    event.preventDefault();
    if (!text.trim()) return;
    try {
      await onSend({ text: text.trim() });
      setText((now) => (now === text ? "" : now)); // the next message may have been begun
      setLost(false);
    } catch {
      setLost(true);
    }
  }

  return (
    <section className="thread">
      <ol>
        {messages.map((message) => (
          <li key={message.id} className={!!message.is_agent === isAgent ? "mine" : "theirs"}>
            {message.text}
            {isAgent && !message.is_agent && <small>{message.device}</small>}
          </li>
        ))}
      </ol>
      <form onSubmit={send}>
        <input aria-label="Message" placeholder="Write a message" maxLength={2000} value={text} onChange={(event) => setText(event.target.value)} />
        <button>Send</button>
        {isLost && <small role="alert">Not sent. Try again.</small>}
      </form>
    </section>
  );
}
