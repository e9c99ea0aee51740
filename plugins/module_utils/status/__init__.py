"""One screen about everything: what was found, and how it is shown."""
