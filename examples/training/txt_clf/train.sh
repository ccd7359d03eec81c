#!/usr/bin/env bash
# Stages 2 and 3 of the IMDb recipe, one after the other. Flags are for both.
set -euo pipefail

folder=$(dirname "$0")
bash "$folder/train_dec.sh" "$@"
bash "$folder/train_all.sh" "$@"
