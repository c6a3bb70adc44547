"""What can be read off an architecture, and a small zoo of architectures."""
