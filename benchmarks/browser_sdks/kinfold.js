import { start } from "kinfold";

const kinfold = start({ host: location.origin, key: "kf_pk_default_0_0", automated: true });

window.page = () => kinfold.page();
