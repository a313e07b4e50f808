#!/usr/bin/env bash
# More connections than descriptors.
exec tests/fault/descriptors.sh
