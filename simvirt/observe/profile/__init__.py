"""Where a guest's time goes: sampled instructions, exits by reason and by site, the distances between exits."""
