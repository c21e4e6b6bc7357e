"""Every JSON document of ours, each with one definition."""
