"""Each package is released alone: it builds, installs and starts alone, and speaks with what was released before it."""
