"""HTTP server with OpenAI's interface, and a page, over bundles on this machine."""
