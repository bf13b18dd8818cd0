export default { output: "export" }; // static files, so that the site of the test can serve them
