"""The four ways to change part of an object."""
