#!/bin/sh
# Fuzzes every reader for so many seconds each (600), one after the other, from the files of the real packages and seeds/.
#   fuzz/run.sh [SECONDS [TARGET...]]
# Needs cargo-fuzz and a C++ compiler; the stable toolchain will do. What is found lies in fuzz/artifacts.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-600}
[ $# -gt 0 ] && shift
targets=${*:-torch mxnet npy npz safetensors photograph label_mask pickle zip exif tables annotation configuration}
for target in $targets; do
    mkdir -p "fuzz/corpus/$target"
    cargo fuzz run -s none "$target" "fuzz/corpus/$target" tests/formats/files fuzz/seeds -- \
        -max_total_time="$seconds" -max_len=65536 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1
done
