"""What the tap costs at least: standalone programs without types, HTTP and checks."""
