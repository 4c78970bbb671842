"""What a pool is made of before it serves: its model, names, replicas to start, and checks."""
