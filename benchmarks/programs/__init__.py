"""What the tap is compared with: each a program of its own."""
