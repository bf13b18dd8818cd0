import posthog from "posthog-js";

// What the others do not do, either, is off: recordings, clicks, surveys, and scripts from its server.
posthog.init("phc_key", {
  api_host: location.origin,
  autocapture: false,
  capture_pageview: false,
  capture_pageleave: false,
  disable_external_dependency_loading: true,
  disable_session_recording: true,
  disable_surveys: true,
  advanced_disable_flags: true,
  opt_out_useragent_filter: true,
});

window.page = () => posthog.capture("$pageview");
