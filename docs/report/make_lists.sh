#!/usr/bin/env bash
# Makes the data of the report's job files from a folder of photographs that may be read-only.
#
#   docs/report/make_lists.sh DATA WORK
#
# DATA/flowers holds images/, train.txt, val.txt and classes.txt. WORK/flowers gets copies of them and two
# lists more: train-labelled.txt, every second training picture of each class, and unlabelled.txt, the others
# without their classes. DATA stays as it is. Does nothing when all is there already.
set -euo pipefail
(($# == 2)) || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }
from=$1/flowers
to=$2/flowers
for file in train.txt val.txt classes.txt; do
    [[ -r $from/$file ]] || { echo "make_lists: there is no $from/$file" >&2; exit 1; }
done
fresh=yes
for file in train.txt val.txt classes.txt; do
    cmp -s "$from/$file" "$to/$file" || fresh=no
done
[[ $fresh == no || ! -s $to/unlabelled.txt || ! -d $to/images ]] || exit 0

mkdir -p "$2"
[[ ! $1 -ef $2 ]] || { echo "make_lists: WORK must be another folder than DATA" >&2; exit 1; }
# Only what an earlier run of this script made is replaced.
[[ ! -e $to || -e $to/unlabelled.txt ]] || { echo "make_lists: $to is there already, and not made by this" >&2; exit 1; }
part=$2/flowers.part
rm -rf -- "$part"
mkdir "$part"
cp -rL --reflink=auto --no-preserve=mode -- "$from/images" "$part/"
cp --no-preserve=mode -- "$from/train.txt" "$from/val.txt" "$from/classes.txt" "$part/"
# The class is what follows the tab, or the folder that the picture is in.
awk -F '\t' -v labelled="$part/train-labelled.txt" -v unlabelled="$part/unlabelled.txt" '
    { class = $2; if (class == "") { n = split($1, at, "/"); class = at[n - 1] } }
    seen[class]++ % 2 == 0 { print > labelled; next }
    { print $1 > unlabelled }' "$part/train.txt"
# Last of all, so that a folder under its own name is whole.
rm -rf -- "$to"
mv -- "$part" "$to"
echo "made $to: $(wc -l <"$to/train-labelled.txt") labelled and $(wc -l <"$to/unlabelled.txt") unlabelled training pictures"
