"""`python -m abaw_feats.finetune`: the older spelling of `python -m abaw_feats finetune`."""

import sys

from abaw_feats.entry import main

if __name__ == "__main__":
    main(["finetune", *sys.argv[1:]])
