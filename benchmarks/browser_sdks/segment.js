import { AnalyticsBrowser } from "@segment/analytics-next";

const analytics = AnalyticsBrowser.load({ writeKey: "key", cdnURL: location.origin });

window.page = () => analytics.page();
