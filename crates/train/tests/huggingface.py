#!/usr/bin/env python3
"""Asks Hugging Face's `tokenizers` (PyPI) what it makes of this project's tokenizer.json files.

    cargo build && pip install tokenizers
    python3 crates/train/tests/huggingface.py target/debug/pageformer [NUMBER OF STRINGS] > crates/train/tests/huggingface.json
"""
import json, pathlib, random, subprocess, sys, tempfile, zlib
import tokenizers

pageformer = pathlib.Path(sys.argv[1]).resolve()
number = int(sys.argv[2]) if len(sys.argv) > 2 else 120
text = pathlib.Path(__file__).resolve().parents[3] / "corpora/chat/common.txt"

words = "the cat don't 'tis what's  a\n\n \t I 42 3.14 ?! -- \"so\" é Ünïcödé 日本語 😀 👩‍👩‍👧 \u0000 \u00a0 \r\n <s> [ ] ▁ Ġ Ċ \u2028 \ufeff e\u0301".split(" ")
dice = random.Random(7)
strings = ["", " ", "  ", "Hello there", " hello", "what is your name?", "\n", "▁", "Ġhi", "caf\u00e9 cafe\u0301"]
while len(strings) < number:
    if dice.random() < 0.6:
        pieces = [dice.choice(words) for _ in range(dice.randrange(1, 9))]
        strings.append(dice.choice(["", " "]).join(pieces))
    else:
        ranges = [(0, 127), (0, 127), (0x80, 0x7FF), (0x800, 0xD7FF), (0x10000, 0x10FFFF)]
        strings.append("".join(chr(dice.randint(*dice.choice(ranges))) for _ in range(dice.randrange(1, 25))))

golden = {"tokenizers": tokenizers.__version__, "strings": strings, "kinds": {}}
with tempfile.TemporaryDirectory() as folder:
    for kind in ["ascii", "bytes", "bpe"]:
        options = f"--preset sketch --kind text --hold-out 0 --tokenizer {kind} --steps 1 --batch-tokens 64"
        vocab = ["--vocab", "600"] if kind == "bpe" else []
        command = [pageformer, "train", "--data", text, "-o", f"{folder}/{kind}", *options.split(), *vocab]
        subprocess.run(command, check=True, capture_output=True)
        file = pathlib.Path(folder, kind, "tokenizer.json")
        theirs = tokenizers.Tokenizer.from_file(str(file))
        golden["kinds"][kind] = {
            "crc32": zlib.crc32(file.read_bytes()),
            "vocab": theirs.get_vocab_size(),
            "first": theirs.encode("").ids,
            "ids": [theirs.encode(s, add_special_tokens=False).ids for s in strings],
            "decoded": [theirs.decode(theirs.encode(s, add_special_tokens=False).ids) for s in strings],
        }
print(json.dumps(golden, separators=(",", ":")))
