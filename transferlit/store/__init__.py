"""Arrays kept under a key, on this machine or far away: whole or absent, checked before use."""
from .local import Damaged, FORMAT, LocalStore, StoredRows, Writer, append_shard, bytes_text, dtype_of, finish, home, listing, prune, read, shard_limits, size, size_of
from .remote import Place, RemoteStore, append_remote_shard, is_remote

__all__ = ["append_remote_shard", "append_shard", "bytes_text", "Damaged", "dtype_of", "finish", "FORMAT", "home", "is_remote", "listing", "LocalStore", "Place", "prune", "read", "RemoteStore", "shard_limits", "size", "size_of", "StoredRows", "Writer"]
