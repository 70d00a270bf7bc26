"""`python -m abaw_feats.extract`: the older spelling of `python -m abaw_feats extract`."""

from abaw_feats.entry import extract

if __name__ == "__main__":
    extract()
