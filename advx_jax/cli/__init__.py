"""The commands: flags and what they mean, one-line errors, exit statuses. They call the rooms below and print."""
