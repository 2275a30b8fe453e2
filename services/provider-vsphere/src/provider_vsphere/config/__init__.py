"""A machine as vSphere's configuration: how it is made and changed. Pure: no session, no lookups."""
