"""Makes rows.csv and the data set descriptions of this folder from the table of texts (see README.md).

python3 prepare.py texts.jsonl
texts.jsonl has an object per line with: id, name, group, subgroup, fold; line i is picture i of each vendor's file.
"""

import csv
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
VENDORS = ["fluent", "noto", "openmoji", "twemoji"]
THINGS = ["animals-nature", "food-drink", "travel-places", "objects"]

HEAD = """version = 1
name = "{name}"
licence = "fluent: MIT; noto: Apache-2.0; openmoji: CC BY-SA 4.0; twemoji: CC BY 4.0; names: MIT and Unicode"
citation = "Microsoft Corporation, Fluent Emoji (flat); Google Inc, Noto Emoji; OpenMoji, the open-source emoji and icon project; Twitter, Inc and other contributors, Twemoji; Miles Johnson, emojibase"
source = "npm @iconify-json/fluent-emoji-flat 1.2.6, noto 1.2.9, openmoji 1.2.29, twemoji 1.2.5; emojibase-data 17.0.0"
"""
REST = """
[modalities.image]                 # u8 [1234, 3, 32, 32] in each file
file = [{files}]
key = "image"
size = 24

[modalities.text]
file = "rows.csv"
text = "name"
bytes = 64

[fold]                             # by emoji: those of a fold are in it in every style
file = "rows.csv"
key = "fold"

[client]
file = "rows.csv"
key = "{client}"

[label]
file = "rows.csv"
key = "{key}"
"""


def classes(names):
    lines, line = [], "   "
    for name in names:
        if len(line) + len(name) + 4 > 118:
            lines.append(line)
            line = "   "
        line += f' "{name}",'
    return "\n".join(["classes = [", *lines, line, "]"]) + "\n"


def place(row, vendor):
    """Who holds a picture in sites.toml: its vendor, or an archive of pictures and a glossary that share the other emoji."""
    if row["fold"] == 0 or row["id"] % 5 < 2:
        return vendor
    return "glossary" if vendor == "fluent" else "archive"


def unique(values):
    return list(dict.fromkeys(values))


def describe(file, comment, name, names, key, more="", client="vendor"):
    files = ", ".join(f'"{vendor}.safetensors"' for vendor in VENDORS)
    text = comment + HEAD.format(name=name) + classes(names) + REST.format(files=files, key=key, client=client) + more
    (HERE / file).write_text(text)


rows = [json.loads(line) for line in open(sys.argv[1])]
with open(HERE / "rows.csv", "w", newline="") as out:
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["vendor", "emoji", "name", "group", "subgroup", "thing", "fold", "site"])
    for vendor in VENDORS:
        for row in rows:
            thing = row["subgroup"] if row["group"] in THINGS else -1
            site = place(row, vendor)
            table.writerow([vendor, row["id"], row["name"], row["group"], row["subgroup"], thing, row["fold"], site])

describe("dataset.toml", "", "emoji", unique(row["subgroup"] for row in rows), "subgroup")
describe("groups.toml", "# Classes are the 8 groups.\n", "emoji-groups", unique(row["group"] for row in rows), "group")
things = unique(row["subgroup"] for row in rows if row["group"] in THINGS)
comment = "# Only animals, food, travel and objects: what has a look of its own and a name that says what it is.\n"
more = "unknown = -1                       # all other emoji, which are left out\n"
describe("things.toml", comment, "emoji-things", things, "thing", more)
comment = "# The emoji of things.toml at six sites: each vendor with two fifths, an archive of the other pictures, a glossary of names.\n"
describe("sites.toml", comment, "emoji-sites", things, "thing", more, client="site")
