"""Latency, FLOPs and memory by stage, including the selector."""
