"""Settings: frozen dataclasses filled strictly from YAML files and `key=value` changes.

An unknown key fails and names the nearest valid one; a value of the wrong type fails with its key; `1e-5` is a
number. Each field says in its type which numbers it takes (`ranges.py`), in its attribute docstring what it means,
and `abaw-seq config` prints both. Rules that concern several fields belong in the dataclass's `__post_init__`, as
ValueErrors that begin with a field's name.
"""

from abaw_seq.config.fields import dump, from_dict, to_dict
from abaw_seq.config.ranges import Checked
from abaw_seq.config.reading import find, load, merged, read_yaml, shipped

__all__ = ["Checked", "dump", "find", "from_dict", "load", "merged", "read_yaml", "shipped", "to_dict"]
