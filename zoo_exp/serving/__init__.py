"""Serving: other engines that generate from pruned prompts, and an HTTP server."""
