// What the customer's page and the agent's have in common.
import { useEffect, useState } from "react";

export async function post(url, body) {
  const answer = await fetch(url, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  return answer.json();
}

/** What the server says at a URL, live. Null until it does: what was at another URL is never shown. */
export function useLive(url) {
  const [told, setTold] = useState({});
  useEffect(() => {
    if (!url) return;
    const source = new EventSource(url);
    source.onmessage = ({ data }) => setTold({ url, value: JSON.parse(data) });
    return () => source.close();
  }, [url]);
  return told.url === url ? told.value : null;
}

/** The messages, and a form for the next one. */
export function Thread({ messages, isAgent, onSend }) {
  const [text, setText] = useState("");

  function send(event) {
    event.preventDefault();
    if (text.trim()) onSend({ text: text.trim() });
    setText("");
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
      </form>
    </section>
  );
}
