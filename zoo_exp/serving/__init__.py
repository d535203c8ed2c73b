"""Serving: pruned prompts for vLLM, here or over HTTP, its plug-in, and an HTTP server of our own."""
