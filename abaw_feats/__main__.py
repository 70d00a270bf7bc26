"""`python -m abaw_feats VERB`, for `torchrun` to start: the verbs of `abaw-feats`, and `extract`."""

import sys

from abaw_feats.entry import extract, main

if __name__ == "__main__":
    if sys.argv[1:2] == ["extract"]:
        extract(sys.argv[2:])
    main()
