"""What a run costs: stage times and FLOPs."""
