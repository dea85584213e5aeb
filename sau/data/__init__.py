"""Records, their sources and the demo people."""

from sau.data.demo import write_demo_data
from sau.data.records import COLUMNS, as_dataset, load_records, write_shards
from sau.data.sets import Sets

__all__ = ["COLUMNS", "Sets", "as_dataset", "load_records", "write_demo_data", "write_shards"]
