"""`python -m abaw_feats.pretrain`: the older spelling of `python -m abaw_feats pretrain`."""

import sys

from abaw_feats.entry import main

if __name__ == "__main__":
    main(["pretrain", *sys.argv[1:]])
