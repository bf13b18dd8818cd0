// What the snippets of docs/how-to/sdks.md import.
import { RudderAnalytics } from "@rudderstack/analytics-js/bundled";
import { AnalyticsBrowser } from "@segment/analytics-next";

Object.assign(window, { AnalyticsBrowser, RudderAnalytics });
