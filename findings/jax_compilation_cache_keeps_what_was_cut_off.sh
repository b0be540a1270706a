#!/usr/bin/env bash
# jax 0.10.2, CPU: an entry of the persistent compilation cache is written in place, and one that is there is never written
# again. So an entry that a killed process or a full disk has cut off stays: every later process warns and compiles that
# program anew, for ever. With a bound (jax_compilation_cache_max_size) it is worse: a process killed between the entry and
# its `-atime` file leaves a folder in which no later program is kept at all, with a warning each time.
# One would expect a write to a temporary file and a rename, or a bad entry to be replaced.
#
# Seen with Python 3.11 ("read" is what came from the cache, "kept" how many entries were written):
#   first: read 0, kept 1, warnings []
#   whole: read 1, kept 0, warnings []
#   cut off: read 0, kept 0, warnings ['Error reading persistent compilation cache entry']
#   cut off, again: read 0, kept 0, warnings ['Error reading persistent compilation cache entry']
#   bounded: read 0, kept 1, warnings []
#   bounded, without one -atime file: read 0, kept 0, warnings ['Error writing persistent compilation cache entry']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q jax==0.10.2 jaxlib==0.10.2 filelock==3.20.0
cat > "$folder/run.py" << 'PYTHON'
import sys
import warnings

import jax

folder, factor, bound = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
jax.config.update("jax_compilation_cache_dir", folder)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_compilation_cache_max_size", bound)
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
import pathlib

before = {path.name: path.stat().st_mtime_ns for path in pathlib.Path(folder).glob("*-cache")}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    # A program of its own for each factor, from a host array: nothing else is compiled.
    import numpy as np

    jax.jit(lambda x: x * factor)(np.ones(3, np.float32)).block_until_ready()
after = {path.name: path.stat().st_mtime_ns for path in pathlib.Path(folder).glob("*-cache")}
said = [str(warning.message).split(" for ")[0] for warning in caught if "persistent" in str(warning.message)]
hits = events.count("/jax/compilation_cache/cache_hits")
print(f"read {hits}, kept {sum(before.get(name) != time for name, time in after.items())}, warnings {said}")
PYTHON
run() { JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/run.py" "$@" 2> /dev/null; }
{
    mkdir "$folder/a" "$folder/b"
    echo "first: $(run "$folder/a" 3 -1)"
    echo "whole: $(run "$folder/a" 3 -1)"
    for entry in "$folder"/a/*-cache; do truncate -s -20 "$entry"; done
    echo "cut off: $(run "$folder/a" 3 -1)"
    echo "cut off, again: $(run "$folder/a" 3 -1)"
    echo "bounded: $(run "$folder/b" 3 1000000000)"
    rm "$folder"/b/*-atime
    echo "bounded, without one -atime file: $(run "$folder/b" 5 1000000000)"
} > "$folder/seen"
cat "$folder/seen"
diff "$folder/seen" - << 'EXPECTED'
first: read 0, kept 1, warnings []
whole: read 1, kept 0, warnings []
cut off: read 0, kept 0, warnings ['Error reading persistent compilation cache entry']
cut off, again: read 0, kept 0, warnings ['Error reading persistent compilation cache entry']
bounded: read 0, kept 1, warnings []
bounded, without one -atime file: read 0, kept 0, warnings ['Error writing persistent compilation cache entry']
EXPECTED
