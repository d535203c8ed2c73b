"""What a run costs: FLOPs counted and timed stage by stage, the selector included."""
