"""Arrays kept under a key, on this machine or far away: whole or absent, checked before use."""
from .local import Damaged, Store, StoredRows, bytes_text, home, shard_limits
from .remote import RemoteStore, open_store

__all__ = [
    "bytes_text",
    "Damaged",
    "home",
    "open_store",
    "RemoteStore",
    "shard_limits",
    "Store",
    "StoredRows",
]
