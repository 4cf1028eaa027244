"""Results on disk, keyed by the items' ids; nothing that was written is lost."""
