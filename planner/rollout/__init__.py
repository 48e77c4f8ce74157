"""From the revision that is served to another one, on a running fleet: tables, order and steps. Pure."""
