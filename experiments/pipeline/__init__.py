"""From a config to results: endpoints, merges, records, files. The scripts only call this."""
