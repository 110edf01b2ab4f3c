#!/bin/sh
# Fails (1) when a tool's detections got worse than the baseline's; for any CI that runs a shell.
#   gate.sh DETECTIONS DATA BASELINE.json OUT_DIR
# The first run, without a baseline, writes it. No model and no torch is needed.
set -eu
detections=$1 data=$2 baseline=$3 out=$4
mkdir -p "$out"
if [ ! -f "$baseline" ]; then
    detkit eval --predictions "$detections" "$data" --json --with-detections > "$out/first.json"
    mv "$out/first.json" "$baseline"
    echo "baseline written: $baseline" >&2
    exit 0
fi
detkit eval --predictions "$detections" "$data" --json \
    --baseline "$baseline" --max-drop .01 --junit "$out/detkit.xml" --force > "$out/scores.json"
