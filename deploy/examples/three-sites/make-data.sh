#!/bin/sh
# Cuts two views of the mfeat digits into three sites that share no sample. POSIX sh and awk.
#
#   north has both views, but no Zernike moments of every fifth of its digits
#   south has the morphological features only
#   east  has the Zernike moments only
#
# Usage: ./make-data.sh [FOLDER-WITH-mor.csv-AND-zer.csv]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
from=${1:-"$here/../../data/mfeat"}
for file in "$from/mor.csv" "$from/zer.csv"; do
    [ -r "$file" ] || { echo "make-data.sh: cannot read $file" >&2; exit 1; }
done

# rows FILE REMAINDER DROP: the header, and the rows whose id leaves REMAINDER when divided by 3. With DROP above 0
# every DROP-th of these is left out.
rows() {
    awk -F, -v remainder="$2" -v drop="$3" '
        NR == 1 { print; next }
        $1 % 3 != remainder { next }
        drop > 0 && ++seen % drop == 0 { next }
        { print }' "$from/$1"
}

rows mor.csv 0 0 > "$here/north/data/mor.csv"
rows zer.csv 0 5 > "$here/north/data/zer.csv"
rows mor.csv 1 0 > "$here/south/data/mor.csv"
rows zer.csv 2 0 > "$here/east/data/zer.csv"
wc -l "$here"/*/data/*.csv
