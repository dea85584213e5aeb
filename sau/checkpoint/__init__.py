"""Everything that is bytes on disk: the sparse checkpoint, deltas, archives, digests."""
