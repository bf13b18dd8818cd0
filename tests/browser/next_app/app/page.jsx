import { Upgrade } from "./upgrade";

export default function Page() {
  return <Upgrade />;
}
