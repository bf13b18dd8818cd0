import { RudderAnalytics } from "@rudderstack/analytics-js/bundled";

const analytics = new RudderAnalytics();
analytics.load("key", location.origin, { configUrl: location.origin });

window.page = () => analytics.page();
