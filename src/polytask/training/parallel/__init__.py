"""What runs one training over several processes; applied to a built network from outside."""
